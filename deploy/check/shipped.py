"""Checks that nothing that only development needs is in what is shipped, and that libFuzzer tries the crates that are."""

import re
import subprocess
import sys

import facts

SHIPPED = (*facts.SERVICES, "lokctl")
DEVELOPMENT = {
    "chaos", "demo", "fuzz", "jsonwebtoken", "loadtest", "proptest", "protocol-model", "rcgen", "rsa", "stateright", "testkit",
}
FUZZ_LOCK = "crates/fuzz/targets/Cargo.lock"
# What libFuzzer brings along; everything else is in both.
FUZZ_ONLY = {"arbitrary", "fuzz-targets", "jobserver", "libfuzzer-sys"}


def built_of(edges):
    """The names of all crates that the shipped programs are built of, by these edges of `cargo tree`."""
    packages = [argument for name in SHIPPED for argument in ("--package", name)]
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--target", "all", "--edges", edges, "--prefix", "none", "--format", "{p}", *packages],
        cwd=facts.ROOT, check=True, capture_output=True, text=True,
    )
    return facts.at_least(200, {line.split()[0] for line in tree.stdout.splitlines() if line}, "crates that are shipped")


def locked(path):
    package = re.compile(r'name = "(.+)"\nversion = "(.+)"\n(?:source = .+\n)?(?:checksum = "(.+)"\n)?')
    return facts.at_least(100, set(package.findall(facts.source(path))), f"packages in {path}")


def not_shipped(names):
    return [f"{name} is built into what is shipped" for name in sorted(DEVELOPMENT & names)]


def not_the_same(fuzzed, built):
    different = sorted(f"{name} {version}" for name, version, _ in fuzzed - built if name not in FUZZ_ONLY)
    return [f"{FUZZ_LOCK}: {package} is none of Cargo.lock's; `make fuzz` makes the file anew" for package in different]


def main():
    fuzzed, built = locked(FUZZ_LOCK), locked("Cargo.lock")
    problems = not_shipped(built_of("normal,build")) + not_the_same(fuzzed, built)
    for problem in problems:
        print(problem)
    if problems:
        return 1

    # What tests need is seen where tests are looked at; an older version, and other bytes of the same, are noticed.
    name, version, _ = next(iter(fuzzed & built))
    broken = [{(name, "0.0.1", "")}, {(name, version, "0")}]
    if not not_shipped(built_of("normal,build,dev")) or not all(not_the_same(fuzzed | more, built) for more in broken):
        print("shipped.py does not notice what it is there for")
        return 1
    print(f"{len(built)} packages; nothing of development is shipped, and libFuzzer tries the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks that each threat in SECURITY.md names tests that are run, or checks of `make lint`; then breaks the page, and demands
that it is noticed."""

import re
import subprocess
import sys
from pathlib import Path

import facts

HEADING = ["who attacks what", "what stops it", "tests"]
FUNCTION = re.compile(r"((?:#\[[^\]]*\]\s*(?://[^\n]*\n\s*)*)+)(?:pub )?(?:async )?fn (\w+)")
TEST = re.compile(r"#\[(?:\w+::)*test\b")
IGNORED = re.compile(r"#\[(?:ignore\b|cfg_attr\b[^\]]*\bignore\b)")
CHECK = re.compile(r'^check "([^"]+)"', re.MULTILINE)


def tests_in(text):
    """The names of the tests in a source file that are run."""
    for attributes, name in FUNCTION.findall(text):
        if TEST.search(attributes) and not IGNORED.search(attributes):
            yield name


def tests():
    """The names of all tests in the workspace, alone and behind the name of their file: `NAME`, `FILE::NAME`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--", "crates/*.rs"], cwd=facts.ROOT, check=True, capture_output=True, text=True
    )
    found = set()
    for path in filter(None, listed.stdout.split("\0")):
        if (facts.ROOT / path).exists():
            for name in tests_in(facts.source(path)):
                found.update((name, f"{Path(path).stem}::{name}"))
    return facts.at_least(1000, found, "tests")


def checks():
    """What `make lint` checks, as the page names it: `lint: NAME`."""
    return {f"lint: {name}" for name in facts.at_least(5, CHECK.findall(facts.source("deploy/dev/lint.sh")), "checks")}


def rows(page):
    """The rows of the tables of threats, as lists of cells."""
    is_threats = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            is_threats = False
        elif cells == HEADING:
            is_threats = True
        elif is_threats and not set("".join(cells)) <= set("-"):
            yield cells


def problems(page, known):
    found = list(rows(page))
    if len(found) < 50:
        yield f"only {len(found)} threats: a table starts with | {' | '.join(HEADING)} |"
    for cells in found:
        named = re.findall(r"`([^`]+)`", cells[-1])
        if len(cells) != len(HEADING) or not named:
            yield f"a threat without a test: {cells[0]}"
        for name in named:
            if name not in known:
                yield f"no test that is run: {name} ({cells[0]})"


def main():
    page, known = facts.source("SECURITY.md"), tests() | checks()
    found = list(problems(page, known))
    for problem in found:
        print(f"SECURITY.md: {problem}")
    if found:
        return 1

    cell = next(rows(page))[-1]
    for broken in ("`no_such_test`", f"{cell}, `no_such_test`", "reviewed", "", "a | b"):
        if not list(problems(page.replace(cell, broken, 1), known)):
            print("threats.py does not notice a broken SECURITY.md")
            return 1
    never_run = ("#[test] #[ignore]", '#[ignore = "slow"] #[test]', "#[test] #[cfg_attr(debug_assertions, ignore)]", "#[inline]")
    if list(tests_in("\n".join(f"{attributes} fn a() {{}}" for attributes in never_run))):
        print("threats.py takes for a test what is never run")
        return 1
    print(f"{sum(1 for _ in rows(page))} threats, each with its tests")
    return 0


if __name__ == "__main__":
    sys.exit(main())

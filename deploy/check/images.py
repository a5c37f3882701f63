"""Checks deploy/Dockerfile and deploy/compose.yaml as far as that goes without an engine; then breaks them, one thing at
a time, and demands that it is noticed."""

import copy
import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import compose_spec
import yaml

import facts

BINARIES = (*facts.SERVICES, "lokctl")
INTERPOLATED = re.compile(r"\$\{(\w+)(?:(:\?|:-)([^}]*))?\}")


# ---- Dockerfile


def instructions(text):
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    return [tuple(line.strip().split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stages(text):
    """Stage → (what it starts from, its instructions)."""
    found, current = {}, None
    for instruction, rest in instructions(text):
        if instruction == "FROM":
            base, _, name = rest.split()
            current = found.setdefault(name, (base, []))[1]
        elif current is not None:
            current.append((instruction, rest))
    return found


def ignored(path, patterns):
    """Whether the last pattern that matches leaves a path out of the context."""
    out = False
    for pattern in patterns:
        negated, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        if fnmatch.fnmatch(path, pattern):
            out = not negated
    return out


def dockerfile_problems(text):
    lint = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if lint.returncode != 0:
        yield from (lint.stdout + lint.stderr).strip().splitlines()

    found = stages(text)
    if not {"build", "runtime", *BINARIES} <= set(found):
        yield f"expected the stages build, runtime and {', '.join(BINARIES)}"
        return
    channel = tomllib.loads(facts.source("rust-toolchain.toml"))["toolchain"]["channel"]
    if not re.search(rf"(?m)^ARG BUILD_IMAGE=rust:{re.escape(channel)}-", text):
        yield f"BUILD_IMAGE is not the toolchain of rust-toolchain.toml ({channel})"
    version = tomllib.loads(facts.source("Cargo.toml"))["workspace"]["package"]["version"]
    if ("ARG", f"VERSION={version}") not in found["runtime"][1]:
        yield f"VERSION is not the workspace's ({version})"

    patterns = [line for line in facts.source("deploy/Dockerfile.dockerignore").split("\n") if line and line[0] != "#"]
    copied = set()
    for instruction, rest in found["build"][1]:
        if instruction == "COPY":
            copied.update(rest.split()[:-1])
    for path in copied:
        if not (facts.ROOT / path).exists():
            yield f"COPY {path}: no such file"
        if ignored(path, patterns):
            yield f"COPY {path}: Dockerfile.dockerignore keeps it out of the context"
    if not {"Cargo.toml", "Cargo.lock", "crates", "proto-schemas"} <= copied:
        yield "the build stage does not copy everything the build reads"
    build = " ".join(rest for instruction, rest in found["build"][1] if instruction == "RUN")
    profile = "production"
    if profile not in tomllib.loads(facts.source("Cargo.toml"))["profile"]:
        yield f"Cargo.toml has no profile {profile}"
    if f"cargo build --locked --profile {profile}" not in build:
        yield f"the build must be `cargo build --locked --profile {profile}`"

    runtime = found["runtime"][1]
    if not any(instruction == "USER" and re.fullmatch(r"[1-9]\d*:[1-9]\d*", rest) for instruction, rest in runtime):
        yield "runtime: USER must be a number that is not 0"
    if ("STOPSIGNAL", "SIGTERM") not in runtime:
        yield "runtime: no STOPSIGNAL SIGTERM"
    for binary in BINARIES:
        base, rest = found[binary]
        path = f"/usr/local/bin/{binary}"
        if base != "runtime" or any(instruction in ("USER", "RUN") for instruction, _ in rest):
            yield f"{binary}: must be runtime with one binary"
        if ("COPY", f"--from=build /out/{binary} {path}") not in rest or ("ENTRYPOINT", f'["{path}"]') not in rest:
            yield f"{binary}: must copy and start {path}"
        if f"--package {binary}" not in build or f"target/{profile}/{binary}" not in build:
            yield f"{binary}: is not built"
        if not (facts.ROOT / f"crates/{binary}/src/main.rs").is_file():
            yield f"{binary}: no such crate"


# ---- compose.yaml


def interpolate(text, variables):
    """As compose does; a required variable that is missing is an error, an unknown one too."""
    missing = []

    def value(match):
        name, operator, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return rest
        missing.append(name)
        return ""

    return INTERPOLATED.sub(value, text), missing


def compose_problems(text):
    example = facts.source("deploy/.env.example")
    names = re.findall(r"(?m)^#?([A-Z0-9_]+)=", example)
    sample = {name: "k1:" + "A" * 43 + "=" if name == "LOK_SECRETS_KEYS" else "0a1b2c" for name in names}
    required = {name for name, operator, _ in INTERPOLATED.findall(text) if operator == ":?"}
    unguarded = {name for name, operator, _ in INTERPOLATED.findall(text) if not operator}
    for name in sorted(required - set(re.findall(r"(?m)^([A-Z0-9_]+)=", example))):
        yield f"{name} is required and not in .env.example"
    for name in sorted(unguarded):
        yield f"{name} may be empty without anybody noticing: ${{{name}:?…}}"
    if re.search(r"(?m)^[A-Z0-9_]+=.+", example):
        yield ".env.example contains a value"

    filled, missing = interpolate(text, sample)
    if missing:
        yield f"not interpolated: {', '.join(sorted(set(missing)))}"
    document = yaml.safe_load(filled)
    # The parser knows the Compose specification; merge keys are YAML's, and resolved before.
    try:
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(document, sort_keys=False))
    except Exception as error:  # noqa: BLE001, its errors are of several types
        yield f"not a Compose file: {error}"
        return
    services = document["services"]
    targets = stages(facts.source("deploy/Dockerfile"))
    if set(services) != {"postgres", "rabbitmq", "migrate", *facts.SERVICES}:
        yield f"expected postgres, rabbitmq, migrate and {', '.join(facts.SERVICES)}"
        return
    plain = yaml.safe_load(interpolate(text, {})[0])
    for name, service in services.items():
        yield from (f"{name}: {wrong}" for wrong in service_problems(name, service, targets))
        if name in (*facts.SERVICES, "migrate"):
            binary = "lokctl" if name == "migrate" else name
            secret = facts.secrets(facts.settings())
            variables = {key: str(value) for key, value in service["environment"].items()}
            given = {key for key in variables if facts.key_of(key) in secret}
            for key in given:
                # What is left of a secret without variables must not be one.
                if re.search(r":[^@/]+@", str(plain["services"][name]["environment"][key])):
                    yield f"{name}: {key} has a password in plain sight"
                if variables[key] == str(plain["services"][name]["environment"][key]):
                    yield f"{name}: {key} does not come from .env"
            literal = {key: value for key, value in variables.items() if key not in given}
            yield from (f"{name}: {wrong}" for wrong in facts.variables_wrong(binary, literal, given))
            if binary in facts.SERVICES and (wrong := facts.print_config(binary, variables)):
                yield f"{name}: --print-config: {wrong}"


def service_problems(name, service, targets):
    for port in service.get("ports", []):
        host = port.get("host_ip") if isinstance(port, dict) else str(port).rpartition(":")[0].partition(":")[0]
        if host != "127.0.0.1":
            yield f"port {port} is open to the network"
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if not {"cpus", "memory"} <= set(limits):
        yield "has no limits of cpus and memory"
    if "restart" not in service:
        yield "has no restart policy"
    if name in ("postgres", "rabbitmq"):
        if "healthcheck" not in service or not service.get("volumes"):
            yield "needs a healthcheck and a volume"
        return
    build = service["build"]
    if build["target"] not in targets or not (facts.ROOT / "deploy" / build["context"] / build["dockerfile"]).is_file():
        yield f"{build} does not lead to an image"
    if not service["image"].startswith(f"lokroom/{build['target']}:"):
        yield f"image {service['image']} is not that of target {build['target']}"
    hardening = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    for key, value in hardening.items():
        if service.get(key) != value:
            yield f"{key} must be {value}"
    if name == "migrate":
        if service["command"] != ["migrate"]:
            yield "must run `lokctl migrate`"
        return
    conditions = {dependency: it["condition"] for dependency, it in service["depends_on"].items()}
    expected = {
        "postgres": "service_healthy",
        "rabbitmq": "service_healthy",
        "migrate": "service_completed_successfully",
    }
    if conditions != expected:
        yield f"depends_on must be {expected}"
    grace = facts.span_seconds(facts.settings()["shutdown.grace"][1])
    if facts.span_seconds(service["stop_grace_period"]) < grace + 5:
        yield f"stop_grace_period is less than shutdown.grace ({grace} s) and 5 s"
    if "healthcheck" in service:
        yield "has a healthcheck, but its image holds nothing that could run one"


# ---- What could go wrong, and has to be noticed


def replaced(old, new):
    def apply(text):
        if old not in text:
            raise facts.Unreadable(f"nothing to break: {old!r} is not there")
        return text.replace(old, new)

    return apply


DOCKERFILE_BREAKAGES = {
    "a source that does not exist": replaced("COPY crates crates", "COPY crate crates"),
    "a source that is kept out": replaced("COPY crates crates", "COPY crates crates\nCOPY docs docs"),
    "root": replaced("USER 65532:65532", "USER root"),
    "a shell as entry point": replaced('ENTRYPOINT ["/usr/local/bin/dispatcher"]', "ENTRYPOINT /usr/local/bin/dispatcher"),
    "unlocked versions": replaced("--locked ", ""),
    "another toolchain": replaced("rust:1.95.0-", "rust:1.80.0-"),
    "a binary that is not built": replaced(" --package lokctl", ""),
    "another's binary": replaced("/out/event-ingest", "/out/dispatcher"),
    "an unknown instruction": replaced("STOPSIGNAL SIGTERM", "STOPSIGNALL SIGTERM"),
}
COMPOSE_BREAKAGES = {
    "a port open to the network": replaced("- 127.0.0.1:9080:9080", "- 9080:9080"),
    "a field that compose does not know": replaced("  rabbitmq:\n    image:", "  rabbitmq:\n    imagee: x\n    image:"),
    "a key that the configuration does not know": replaced("LOK__ADMIN__LISTEN: 0.0.0.0:9082", "LOK__ADMIN__LISTN: 0.0.0.0:9082"),
    "a value that is not possible": replaced("LOK__ADMIN__LISTEN: 0.0.0.0:9082", "LOK__ADMIN__LISTEN: everywhere"),
    "a setting that is needed and left out": replaced("      LOK__AUTH__HS256_SECRET: ${LOK_AUTH_HS256_SECRET:?see deploy/.env.example}\n", ""),
    "a secret that may be empty": replaced("${LOK_INGEST_TOKEN:?see deploy/.env.example}", "${LOK_INGEST_TOKEN}"),
    "a secret in plain sight": replaced("${LOK_INGEST_TOKEN:?see deploy/.env.example}", "hunter2"),
    "a password in plain sight": replaced("amqp://lokroom:${RABBITMQ_PASSWORD:?see deploy/.env.example}@", "amqp://lokroom:hunter2@"),
    "a variable that nobody explains": replaced("LOK_INGEST_TOKEN:?", "LOK_INGEST_TOKN:?"),
    "services before the migration": replaced("    migrate: { condition: service_completed_successfully }\n", ""),
    "too short a time to stop": replaced("stop_grace_period: 30s", "stop_grace_period: 10s"),
    "a target that does not exist": replaced("target: dispatcher }", "target: despatcher }"),
    "a healthcheck that cannot run": replaced(
        "stop_grace_period: 30s", "stop_grace_period: 30s\n  healthcheck: { test: [CMD, curl, localhost] }"
    ),
}


def main():
    unbuilt = [service for service in facts.SERVICES if facts.print_config(service, {}) is None]
    if unbuilt:
        print(f"  not built, so values are not checked by the program itself: {', '.join(unbuilt)}")
    failed = False
    subjects = (
        ("deploy/Dockerfile", dockerfile_problems, DOCKERFILE_BREAKAGES),
        ("deploy/compose.yaml", compose_problems, COMPOSE_BREAKAGES),
    )
    for path, problems, breakages in subjects:
        text = facts.source(path)
        found = list(problems(text))
        for problem in found:
            print(f"  {path}: {problem}", file=sys.stderr)
        print(f"  {path}: {len(found)} problems")
        if found:
            failed = True
            continue
        if unbuilt:
            breakages = {what: it for what, it in breakages.items() if what != "a value that is not possible"}
        for what, break_it in breakages.items():
            if not list(problems(break_it(copy.copy(text)))):
                print(f"  {path}: not noticed: {what}", file=sys.stderr)
                failed = True
        print(f"  {path}: {len(breakages)} breakages tried on it")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

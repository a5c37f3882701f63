"""What the code says, read from its sources, so that manifests cannot drift from it."""

import functools
import ipaddress
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("management-api", "event-ingest", "dispatcher")
NAMESPACE = "lokroom-webhooks"


class Unreadable(Exception):
    """A source no longer looks as these checks expect: they would find nothing wrong, whatever is."""


def source(path):
    return (ROOT / path).read_text(encoding="utf-8")


def at_least(number, found, what):
    if len(found) < number:
        raise Unreadable(f"found only {len(found)} {what}; deploy/check/facts.py has to follow the code")
    return found


@functools.cache
def settings():
    """Every key of the configuration (`section.key`) with its Rust type and default."""
    text = source("crates/service/src/settings.rs")
    keys, section = {}, None
    for line in text[text.index("\nsettings! {") :].splitlines():
        if opened := re.fullmatch(r"    (\w+): \w+ \{", line):
            section = opened[1]
        elif key := re.fullmatch(r"        (\w+): (.+?) = (.+),", line):
            keys[f"{section}.{key[1]}"] = (key[2], key[3])
    return at_least(40, keys, "configuration keys")


def secrets(keys):
    """The keys whose values are secret."""
    return at_least(4, {key for key, (kind, _) in keys.items() if "Secret" in kind}, "secret keys")


def variable(key):
    return "LOK__" + key.replace(".", "__").upper()


def key_of(name):
    return name.removeprefix("LOK__").lower().replace("__", ".", 1)


def span_seconds(text):
    """Seconds of a duration as the configuration spells it, or as the code does."""
    if default := re.fullmatch(r"Span::secs\((\d+)\)", text):
        return int(default[1])
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    written = re.fullmatch(r"(\d+)(ms|s|m|h)", text)
    if not written:
        raise Unreadable(f"{text!r} is no duration that deploy/check/facts.py knows")
    return int(written[1]) * units[written[2]]


def needed(service):
    """The settings a binary cannot do without; each a list of alternatives."""
    if service == "lokctl":
        return [["database.url"]]
    found = re.search(r"required: &\[(.*?)\]", source(f"crates/{service}/src/main.rs"), re.DOTALL)
    if not found:
        raise Unreadable(f"no `required` in crates/{service}/src/main.rs")
    return at_least(2, [entry.split("|") for entry in re.findall(r'"([^"]+)"', found[1])], "required settings")


@functools.cache
def queues():
    """The names of queues."""
    return at_least(5, set(re.findall(r'"((?:webhooks|ingest|lokroom)\.[a-z.]+)"', source("crates/wire/src/names.rs"))), "queues")


@functools.cache
def blocked_networks():
    """Where the dispatcher refuses to send, as it says itself."""
    text = source("crates/domain/src/network/special.rs")
    named = {name: v6_network(*block) for name, *block in re.findall(rf"const (\w+): Ipv6Net = {V6};", text)}
    v4 = [ipaddress.ip_network(f"{octets.replace(', ', '.')}/{prefix}") for octets, prefix in table(text, "SPECIAL_V4", V4)]
    v6 = []
    for name, segments, prefix in table(text, "SPECIAL_V6", rf"(?:{V6}|([A-Z]\w+))", lambda found: (found[3], found[1], found[2])):
        v6.append(named[name] if name else v6_network(segments, prefix))
    return v4 + v6


V4 = r"v4\(\[([\d, ]+)\], (\d+)\)"
V6 = r"v6\(\[([\da-fx, ]+)\], (\d+)\)"


def v6_network(segments, prefix):
    address = ":".join(f"{int(segment, 0):x}" for segment in segments.split(", "))
    return ipaddress.ip_network(f"{address}/{prefix}")


def table(text, name, block, fields=lambda found: found.groups()):
    """The blocks of an array `[(BLOCK, "purpose"), …]`, all of them."""
    found = re.search(rf"const {name}: \[[^;]*; (\d+)\] = \[\n(.*?)\n\];", text, re.DOTALL)
    if not found:
        raise Unreadable(f"no `{name}` in crates/domain/src/network/special.rs")
    blocks = [fields(entry) for entry in re.finditer(rf"^ *\({block}, \"", found[2], re.MULTILINE)]
    if len(blocks) != int(found[1]):
        raise Unreadable(f"read {len(blocks)} of the {found[1]} blocks of `{name}`")
    return blocks


def print_config(service, variables):
    """What is wrong with these variables, according to the service itself; None where it is not built."""
    return print_config_of(service, tuple(sorted(variables.items())))


@functools.cache
def print_config_of(service, variables):
    # `target/doc` has folders of these names.
    found = (ROOT / "target").glob(f"*/{service}")
    built = [binary for binary in found if binary.is_file() and os.access(binary, os.X_OK)]
    if not built:
        return None
    newest = max(built, key=lambda binary: binary.stat().st_mtime)
    run = subprocess.run(
        [newest, "--print-config"], env=dict(variables), capture_output=True, text=True, timeout=30, check=False
    )
    return "" if run.returncode == 0 else run.stderr.strip() or f"exit code {run.returncode}"


def variables_wrong(service, literals, from_secrets):
    """What is wrong with a container's LOK__… variables: `literals` are name → value, `from_secrets` names."""
    keys = settings()
    secret = secrets(keys)
    names = [*literals, *from_secrets]
    for name in names:
        if name.startswith("LOK_") and name != "LOK_CONFIG" and key_of(name) not in keys:
            yield f"{name} is no configuration key"
    for name in literals:
        if key_of(name) in secret:
            yield f"{name} is secret and must come from a secret"
    for alternatives in needed(service):
        if not any(variable(key) in names for key in alternatives):
            yield f"{service} needs {' or '.join(map(variable, alternatives))}"
    if service in SERVICES and (wrong := print_config(service, literals)):
        yield f"{service} --print-config: {wrong}"

"""Compares proto-schemas/asyncapi.yaml with what the code and the schemas beside it say; then breaks it, one thing at a
time, and demands that it is noticed."""

import copy
import json
import re
import sys

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

import facts

FOLDER = facts.ROOT / "proto-schemas"


def json_files(folder, suffix):
    found = {path.name.removesuffix(suffix): json.loads(path.read_text()) for path in (FOLDER / folder).glob(f"*{suffix}")}
    return facts.at_least(11, found, f"files in proto-schemas/{folder}")


def constant(path, pattern):
    found = re.search(pattern, facts.source(path))
    if not found:
        raise facts.Unreadable(f"nothing like {pattern} in {path}")
    return found[1]


def problems(document):
    checks = (channels, envelope, examples, rejected, protobuf)
    for check in checks:
        try:
            yield from check(document)
        except (KeyError, IndexError, TypeError, AttributeError) as missing:
            yield f"{check.__name__}: the document is not as expected: {missing!r}"


def resolve(document, ref):
    """What a reference within the document stands for."""
    it = document
    for part in ref["$ref"].removeprefix("#/").split("/"):
        it = it[part]
    return resolve(document, it) if "$ref" in it else it


def event_channels(document):
    return {name: channel for name, channel in document["channels"].items() if name != "rejected"}


def channels(document):
    types = set(json_files("json", ".schema.json"))
    addresses = {channel["address"] for channel in event_channels(document).values()}
    if addresses != types:
        yield f"channels and schemas differ: {', '.join(sorted(addresses ^ types))}"
    exchange = constant("crates/wire/src/names.rs", r'fn events_exchange\(.*\n\s+self\.name\("(.+?)"\)')
    operations = list(document["operations"].values())
    for name, channel in document["channels"].items():
        if [operation["channel"]["$ref"] for operation in operations].count(f"#/channels/{name}") != 1:
            yield f"{name}: expected one operation"
    for name, channel in event_channels(document).items():
        amqp = resolve(document, channel["bindings"])["amqp"]
        if amqp["is"] != "routingKey" or (amqp["exchange"]["name"], amqp["exchange"]["type"]) != (exchange, "topic"):
            yield f"{name}: is not published to the topic exchange {exchange}"
        content = {resolve(document, message)["contentType"] for message in channel["messages"].values()}
        if content != {"application/json", "application/x-protobuf"}:
            yield f"{name}: content types are {', '.join(sorted(content))}"
        payload = resolve(document, channel["messages"]["json"])["payload"]["allOf"]
        properties = payload[1]["properties"]
        if payload[0] != {"$ref": "#/components/schemas/Envelope"}:
            yield f"{name}: the payload is no envelope"
        if properties["event"] != {"const": channel["address"]}:
            yield f"{name}: `event` is not {channel['address']}"
        if properties["data"] != {"$ref": f"./json/{channel['address']}.schema.json"}:
            yield f"{name}: `data` follows {properties['data']}"


def envelope(document):
    schema = document["components"]["schemas"]["Envelope"]
    properties = schema["properties"]
    fields = re.findall(r"^    pub (\w+):", facts.source("crates/domain/src/event/envelope.rs"), re.MULTILINE)
    if set(fields) != set(properties):
        yield f"the envelope has {', '.join(properties)}; the code reads {', '.join(fields)}"
    source = facts.source("crates/domain/src/event/envelope.rs")
    needed = set(re.findall(r'required\(fields\.swap_remove\("(\w+)"\)', source))
    if needed != set(schema["required"]) or not needed:
        yield f"the envelope requires {schema['required']}; the code requires {sorted(needed)}"
    recipients = constant("crates/domain/src/limits.rs", r"MAX_RECIPIENTS: usize = (\d+)")
    if properties["recipients"]["maxItems"] != int(recipients):
        yield f"maxItems of recipients is not {recipients}"
    kib = constant("crates/domain/src/limits.rs", r"MAX_MESSAGE_BYTES: usize = (\d+) \* 1024")
    if f"at most {kib} KiB" not in document["info"]["description"]:
        yield f"the largest message is {kib} KiB, and nothing says so"


def examples(document):
    schemas, data = json_files("json", ".schema.json"), json_files("examples", ".json")
    resources = [("urn:asyncapi", document)]
    resources += [(f"./json/{name}.schema.json", schema) for name, schema in schemas.items()]
    registry = Registry().with_resources(
        (uri, Resource.from_contents(it, default_specification=DRAFT202012)) for uri, it in resources
    )
    seen = set()
    for name, channel in event_channels(document).items():
        event = channel["address"]
        message = resolve(document, channel["messages"]["json"])
        # References within the document, from wherever the payload is.
        schema = json.loads(json.dumps(message["payload"]).replace('"#/', '"urn:asyncapi#/'))
        validator = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
        for example in message["examples"]:
            seen.add(event)
            payload = example["payload"]
            for error in validator.iter_errors(payload):
                yield f"{name}: example: {'/'.join(map(str, error.path))}: {error.message}"
            if payload["data"] != data[event]:
                yield f"{name}: the example's data is not that of examples/{event}.json"
        # The same envelope around each file: the schema is one that the examples in use follow.
        wrapped = {"event": event, "recipients": ["user_1"], "data": data[event]}
        for error in validator.iter_errors(wrapped):
            yield f"{name}: examples/{event}.json: {'/'.join(map(str, error.path))}: {error.message}"
        # And one that can refuse.
        for wrong in ({**wrapped, "event": "x"}, {**wrapped, "recipients": []}, {**wrapped, "data": {}}, {**wrapped, "id": "a b"}):
            if validator.is_valid(wrong):
                yield f"{name}: its schema lets {json.dumps(wrong)} through"
    if seen != set(data):
        yield f"no example for {', '.join(sorted(set(data) - seen))}"


def rejected(document):
    headers = document["components"]["schemas"]["RejectedHeaders"]["properties"]
    names = set(re.findall(r'pub const \w+_HEADER: &str = "(.+?)"', facts.source("crates/wire/src/names.rs")))
    if set(headers) != facts.at_least(2, names, "headers"):
        yield f"headers differ from crates/wire/src/names.rs: {', '.join(sorted(set(headers) ^ names))}"
    codes = re.findall(r'^    [A-Z]\w+ = "(\w+)",', facts.source("crates/domain/src/event/rejection.rs"), re.MULTILINE)
    codes += [constant("crates/wire/src/rejected.rs", rf'const {name}: &str = "(\w+)"') for name in ("UNUSABLE", "POISON")]
    if headers["x-lok-error-code"]["enum"] != facts.at_least(10, codes, "rejection codes"):
        differ = set(headers["x-lok-error-code"]["enum"]) ^ set(codes)
        yield f"codes differ from crates/domain/src/event/rejection.rs: {', '.join(sorted(differ)) or 'order'}"
    queue = constant("crates/wire/src/names.rs", r'fn rejected_queue\(.*\n\s+self\.name\("(.+?)"\)')
    channel = document["channels"]["rejected"]
    if channel["address"] != queue or channel["bindings"]["amqp"]["queue"]["name"] != queue:
        yield f"rejected messages go to {queue}"
    message = resolve(document, channel["messages"]["rejected"])
    schema = document["components"]["schemas"]["RejectedHeaders"]
    for example in message["examples"]:
        for error in Draft202012Validator(schema).iter_errors(example["headers"]):
            yield f"rejected: example: {error.message}"


def protobuf(document):
    message = document["components"]["messages"]["PlatformEvent"]
    if message["payload"]["schema"] != (FOLDER / "lokroom/webhooks/v1/platform_event.proto").read_text():
        yield "the protobuf schema is not lokroom/webhooks/v1/platform_event.proto"


def message_of(document, name):
    return document["components"]["messages"][name]


BREAKAGES = {
    "an event type without a channel": lambda d: d["channels"].pop("bookingCreated"),
    "another routing key": lambda d: d["channels"]["bookingCreated"].update(address="booking.create"),
    "another exchange": lambda d: d["components"]["channelBindings"]["events"]["amqp"]["exchange"].update(name="events"),
    "data of another type": lambda d: message_of(d, "BookingCreated")["payload"]["allOf"][1]["properties"]["data"].update(
        {"$ref": "./json/listing.created.schema.json"}
    ),
    "an example without recipients": lambda d: message_of(d, "ReviewCreated")["examples"][0]["payload"].pop("recipients"),
    "an example of its own": lambda d: message_of(d, "ReviewCreated")["examples"][0]["payload"]["data"].update(rating=4),
    "an example that does not follow the schema": lambda d: message_of(d, "PaymentFailed")["examples"][0]["payload"][
        "data"
    ].pop("bookingId"),
    "a field that nobody reads": lambda d: d["components"]["schemas"]["Envelope"]["properties"].update(priority={}),
    "an envelope that requires nothing": lambda d: d["components"]["schemas"]["Envelope"].update(required=[]),
    "more recipients than are taken": lambda d: d["components"]["schemas"]["Envelope"]["properties"]["recipients"].update(
        maxItems=5000
    ),
    "a rejection code that is missing": lambda d: d["components"]["schemas"]["RejectedHeaders"]["properties"][
        "x-lok-error-code"
    ]["enum"].remove("too_large"),
    "a header that does not exist": lambda d: d["components"]["schemas"]["RejectedHeaders"]["properties"].update(
        {"x-lok-reason": {}}
    ),
    "another queue": lambda d: d["channels"]["rejected"].update(address="lokroom.rejected"),
    "other protobuf": lambda d: message_of(d, "PlatformEvent")["payload"].update(schema='syntax = "proto3";'),
}


def main():
    document = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())
    found = list(problems(document))
    for problem in found:
        print(f"  {problem}", file=sys.stderr)
    print(f"  {len(event_channels(document))} event types against code, schemas and examples: {len(found)} problems")
    if found:
        sys.exit(1)
    unnoticed = 0
    for what, break_it in BREAKAGES.items():
        broken = copy.deepcopy(document)
        break_it(broken)
        if not list(problems(broken)):
            print(f"  not noticed: {what}", file=sys.stderr)
            unnoticed += 1
    print(f"  {len(BREAKAGES)} breakages tried on it")
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()

"""What must hold of the rendered manifests, beyond their schema. `problems` is a pure function of the objects."""

import functools
import ipaddress
import json
from pathlib import Path

import jsonschema
import kubernetes_validate

import facts

# The oldest version that has everything used here (preStop.sleep), and the newest whose schema is known.
KUBERNETES = ("1.30", "1.37")
KEDA = jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("keda.schema.json").read_text()))
NAME = "app.kubernetes.io/name"
HTTP_LISTEN = {"management-api": "LOK__API__LISTEN", "event-ingest": "LOK__INGEST__LISTEN"}


def problems(objects, external):
    """What is wrong with the objects of one environment; `external` are those that operators provide."""
    checks = (schemas, scope, references, deployments, jobs, services, ingresses, policies, scaling)
    for check in checks:
        try:
            yield from check(objects, external)
        except (KeyError, IndexError, TypeError, AttributeError) as missing:
            yield f"{check.__name__}: an object is not as expected: {missing!r}"


def label(it):
    return f"{it['kind']}/{it['metadata']['name']}"


def of_kind(objects, *kinds):
    return [it for it in objects if it["kind"] in kinds]


def pods(objects):
    """(object, pod template) of everything that makes pods."""
    return [(it, it["spec"]["template"]) for it in of_kind(objects, "Deployment", "Job")]


def selects(selector, labels):
    """Whether a label selector selects; an empty one selects everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise KeyError(f"operator {expression['operator']}")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def schemas(objects, _external):
    for it in objects:
        yield from schema_problems(json.dumps(it, sort_keys=True))


@functools.cache
def schema_problems(text):
    """What the schemas say of one object. It is slow, and most objects are seen again."""
    it = json.loads(text)
    if it["apiVersion"].startswith("keda.sh/"):
        return [f"{label(it)}: {'.'.join(map(str, error.path))}: {error.message}" for error in KEDA.iter_errors(it)]
    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(it, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{label(it)}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{label(it)}: {error.message}")
    return found


def scope(objects, _external):
    for it in objects:
        if it["kind"] == "Secret":
            yield f"{label(it)}: secrets must not be in git"
        if it["kind"] != "Namespace" and it["metadata"].get("namespace") != facts.NAMESPACE:
            yield f"{label(it)}: not in the namespace {facts.NAMESPACE}"
    if sorted(it["metadata"]["name"] for it in of_kind(objects, "Deployment")) != sorted(facts.SERVICES):
        yield f"the Deployments are not exactly {', '.join(facts.SERVICES)}"


def data_of(objects, kind, name):
    for it in of_kind(objects, kind):
        if it["metadata"]["name"] == name:
            return {**it.get("data", {}), **it.get("stringData", {})}
    return None


def references(objects, external):
    everything = [*objects, *external]

    def unresolved(where, kind, name, key=None):
        data = data_of(everything, kind, name)
        if data is None:
            yield f"{where}: {kind} {name} is neither rendered nor in secrets.example.yaml"
        elif key is not None and key not in data:
            yield f"{where}: {kind} {name} has no key {key}"

    for it, template in pods(objects):
        spec = template["spec"]
        for container in spec["containers"]:
            for source in container.get("envFrom", []):
                yield from unresolved(label(it), "ConfigMap", source["configMapRef"]["name"])
            for entry in container.get("env", []):
                if ref := entry.get("valueFrom", {}).get("secretKeyRef"):
                    yield from unresolved(label(it), "Secret", ref["name"], ref["key"])
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
            if set(mounts) != volumes:
                yield f"{label(it)}: volumes {sorted(volumes)} are mounted as {sorted(mounts)}"
            for name, value in literals(container, objects).items():
                if name.endswith("_FILE"):
                    yield from file_problems(label(it), name, value, spec, mounts, everything)
        for volume in spec.get("volumes", []):
            yield from unresolved(label(it), "ConfigMap", volume["configMap"]["name"])
        account = spec["serviceAccountName"]
        if data_of(objects, "ServiceAccount", account) is None:
            yield f"{label(it)}: ServiceAccount {account} is not rendered"
    for it in of_kind(objects, "TriggerAuthentication"):
        for ref in it["spec"]["secretTargetRef"]:
            yield from unresolved(label(it), "Secret", ref["name"], ref["key"])


def file_problems(where, name, path, spec, mounts, everything):
    """A file that the configuration names is in a mounted ConfigMap."""
    folder, _, file = path.rpartition("/")
    for volume in spec.get("volumes", []):
        if mounts.get(volume["name"]) == folder:
            if file not in (data_of(everything, "ConfigMap", volume["configMap"]["name"]) or {}):
                yield f"{where}: {name}: {volume['configMap']['name']} has no {file}"
            return
    yield f"{where}: {name}: nothing is mounted at {folder}"


def literals(container, objects):
    """Variables of a container whose values are in the manifests."""
    variables = {}
    for source in container.get("envFrom", []):
        variables.update(data_of(objects, "ConfigMap", source["configMapRef"]["name"]) or {})
    for entry in container.get("env", []):
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
    return variables


def from_secrets(container):
    return [entry["name"] for entry in container.get("env", []) if "valueFrom" in entry]


def port_of(listen):
    address, _, port = listen.rpartition(":")
    return int(port) if address == "0.0.0.0" else None


def deployments(objects, _external):
    for it in of_kind(objects, "Deployment"):
        where, service, template = label(it), it["metadata"]["name"], it["spec"]["template"]
        labels, spec = template["metadata"]["labels"], template["spec"]
        yield from (f"{where}: {wrong}" for wrong in pod_problems(service, spec, objects))

        if it["spec"]["selector"] != {"matchLabels": {NAME: service}} or labels.get(NAME) != service:
            yield f"{where}: selector and labels must be {NAME}: {service}"
        scaled = [s for s in of_kind(objects, "ScaledObject") if s["spec"]["scaleTargetRef"]["name"] == service]
        if scaled and "replicas" in it["spec"]:
            yield f"{where}: replicas are set, but KEDA owns them"
        replicas = scaled[0]["spec"]["minReplicaCount"] if scaled else it["spec"]["replicas"]
        if replicas < 2:
            yield f"{where}: fewer than two replicas"
        if it["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
            yield f"{where}: a rollout must not take replicas away before others are ready"

        container = spec["containers"][0]
        variables = literals(container, objects)
        admin = port_of(variables["LOK__ADMIN__LISTEN"])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports.get("admin") != admin:
            yield f"{where}: port admin is {ports.get('admin')}, the service listens on {variables['LOK__ADMIN__LISTEN']}"
        if template["metadata"]["annotations"].get("prometheus.io/port") != str(admin):
            yield f"{where}: prometheus.io/port is not {admin}"
        if listen := HTTP_LISTEN.get(service):
            if ports.get("http") != port_of(variables[listen]):
                yield f"{where}: port http is {ports.get('http')}, the service listens on {variables[listen]}"
        elif "http" in ports:
            yield f"{where}: serves no HTTP"
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            if container[probe]["httpGet"] != {"path": path, "port": "admin"}:
                yield f"{where}: {probe} must ask {path} on port admin"

        pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if listen and pre_stop < 5:
            yield f"{where}: is called over HTTP, so SIGTERM has to wait until no proxy sends requests (preStop.sleep)"
        grace = facts.span_seconds(variables.get("LOK__SHUTDOWN__GRACE", facts.settings()["shutdown.grace"][1]))
        if spec["terminationGracePeriodSeconds"] < pre_stop + grace + 5:
            yield f"{where}: terminationGracePeriodSeconds is less than preStop {pre_stop} + shutdown.grace {grace} + 5"
        spread = {constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]}
        if "kubernetes.io/hostname" not in spread:
            yield f"{where}: replicas are not spread over nodes"
        budgets = [b for b in of_kind(objects, "PodDisruptionBudget") if selects(b["spec"]["selector"], labels)]
        if len(budgets) != 1:
            yield f"{where}: {len(budgets)} PodDisruptionBudgets select it, expected one"


def pod_problems(service, spec, objects):
    """What holds for every pod."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "must not get a service account's token"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks must be false: variables that nobody asked for"
    context = spec["securityContext"]
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "must run as a user that is not root, by number"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile must be RuntimeDefault"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "must not share the host's namespaces"
    if len(spec["containers"]) != 1:
        yield "one container expected"
    container = spec["containers"][0]
    expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if container.get("securityContext") != expected:
        yield f"the container's securityContext must be {expected}"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "needs requests for cpu and memory and a limit for memory"
    image = container["image"]
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"image {image} has no fixed version"
    yield from facts.variables_wrong(service, literals(container, objects), from_secrets(container))


def jobs(objects, _external):
    found = of_kind(objects, "Job")
    if [it["metadata"]["name"] for it in found] != ["lokctl-migrate"]:
        yield "expected one Job, lokctl-migrate"
    for it in found:
        spec = it["spec"]["template"]["spec"]
        yield from (f"{label(it)}: {wrong}" for wrong in pod_problems("lokctl", spec, objects))
        if spec["containers"][0]["args"] != ["migrate"]:
            yield f"{label(it)}: must run `lokctl migrate`"
        if "activeDeadlineSeconds" not in it["spec"] or "backoffLimit" not in it["spec"]:
            yield f"{label(it)}: must have a bound"
        versions = {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for _, pod in pods(objects)}
        if not any("@" in pod["spec"]["containers"][0]["image"] for _, pod in pods(objects)) and len(versions) > 1:
            yield f"services and migration are of different versions: {', '.join(sorted(versions))}"


def services(objects, _external):
    for it in of_kind(objects, "Service"):
        selector = {"matchLabels": it["spec"]["selector"]}
        selected = [pod for _, pod in pods(objects) if selects(selector, pod["metadata"]["labels"])]
        if len(selected) != 1:
            yield f"{label(it)}: selects {len(selected)} kinds of pods, expected one"
            continue
        ports = {port["name"] for port in selected[0]["spec"]["containers"][0]["ports"]} - {"admin"}
        for port in it["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{label(it)}: port {port['targetPort']} is not one that others may call"


def ingresses(objects, _external):
    for it in of_kind(objects, "Ingress"):
        hosts = {host for tls in it["spec"].get("tls", []) for host in tls["hosts"]}
        for rule in it["spec"]["rules"]:
            if rule["host"] not in hosts:
                yield f"{label(it)}: {rule['host']} is served without TLS"
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if backend != {"name": "management-api", "port": {"name": "http"}}:
                    yield f"{label(it)}: leads to {backend}; only the management API may be reached from outside"
                if not path["path"].startswith("/api/"):
                    yield f"{label(it)}: {path['path']} is not below /api/"


def policies(objects, _external):
    found = of_kind(objects, "NetworkPolicy")
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(it["spec"] == closed for it in found):
        yield "no NetworkPolicy closes everything by default"
    all_labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    for it in found:
        for labels in all_labels:
            if selects(it["spec"]["podSelector"], labels):
                break
        else:
            yield f"{label(it)}: selects nothing"
        if it["spec"] != closed and not (it["spec"].get("ingress") or it["spec"].get("egress")):
            yield f"{label(it)}: allows nothing"
        for rule in it["spec"].get("ingress", []):
            if not rule.get("from") or {} in rule["from"]:
                yield f"{label(it)}: lets everybody in"
    for _, template in pods(objects):
        yield from pod_policies(template, found)


def pod_policies(template, found):
    """What the policies let one kind of pod do."""
    name = template["metadata"]["labels"][NAME]
    mine = [it["spec"] for it in found if selects(it["spec"]["podSelector"], template["metadata"]["labels"])]
    out = [rule for spec in mine for rule in spec.get("egress", [])]
    into = [rule for spec in mine for rule in spec.get("ingress", [])]

    ports = {port["port"] for rule in out for port in rule["ports"]}
    for port in (53, 5432) if name == "lokctl-migrate" else (53, 5432, 5671):
        if port not in ports:
            yield f"{name}: cannot reach port {port}"
    blocked = facts.blocked_networks()
    for rule in out:
        for peer in rule["to"]:
            if "ipBlock" not in peer:
                continue
            block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
            excepted = [ipaddress.ip_network(net) for net in peer["ipBlock"].get("except", [])]
            if block.prefixlen <= 4:  # the internet, or a large part of it
                if name != "dispatcher":
                    yield f"{name}: may reach the internet ({block})"
                for network in blocked:
                    inside = network.version == block.version and network.subnet_of(block)
                    if inside and not any(network.subnet_of(net) for net in excepted if net.version == network.version):
                        yield f"{name}: may reach {network} (crates/domain/src/network/special.rs blocks it)"
            for net in excepted:
                if not net.subnet_of(block):
                    yield f"{name}: {net} is excepted from {block} without being in it"
    if name == "dispatcher" and not any(
        peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for rule in out for peer in rule["to"]
    ):
        yield "dispatcher: cannot reach receivers"

    for port in template["spec"]["containers"][0].get("ports", []):
        rules = [rule for rule in into if port["containerPort"] in {allowed["port"] for allowed in rule["ports"]}]
        if not rules:
            yield f"{name}: nobody may call port {port['name']}"
        if port["name"] == "admin":
            monitoring = [{"namespaceSelector": {"matchLabels": {"lokroom.com/role": "monitoring"}}}]
            if any(rule["from"] != monitoring for rule in rules):
                yield f"{name}: the admin port is open to more than monitoring"


def scaling(objects, _external):
    deployed = {it["metadata"]["name"]: it for it in of_kind(objects, "Deployment")}
    authentications = {it["metadata"]["name"] for it in of_kind(objects, "TriggerAuthentication")}
    for it in of_kind(objects, "ScaledObject"):
        spec = it["spec"]
        if spec["scaleTargetRef"]["name"] not in deployed:
            yield f"{label(it)}: scales {spec['scaleTargetRef']['name']}, which is not rendered"
        if not 2 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]:
            yield f"{label(it)}: minReplicaCount and maxReplicaCount make no range from 2"
        worked_off = queues_of_dispatchers(deployed["dispatcher"], objects)
        if {trigger["metadata"]["queueName"] for trigger in spec["triggers"]} != worked_off:
            yield f"{label(it)}: dispatchers work off {', '.join(sorted(worked_off))}"
        for trigger in spec["triggers"]:
            if trigger["authenticationRef"]["name"] not in authentications:
                yield f"{label(it)}: TriggerAuthentication {trigger['authenticationRef']['name']} is not rendered"


def queues_of_dispatchers(deployment, objects):
    """The queues that dispatchers consume: those of all shards. The first shard's have no number."""
    variables = literals(deployment["spec"]["template"]["spec"]["containers"][0], objects)
    default = {key: default for key, (_, default) in facts.settings().items()}
    shards = max(int(variables.get(facts.variable(key), default[key])) for key in ("amqp.shards", "amqp.drain_shards"))
    kinds = ("webhooks.deliver", "webhooks.fanout")
    if not facts.queues() >= set(kinds):
        raise facts.Unreadable(f"crates/wire does not name {' and '.join(kinds)}")
    return {f"{kind}.s{shard}" if shard else kind for kind in kinds for shard in range(shards)}


def production_problems(objects, external):
    """What holds in production besides: connections are encrypted, images come from a registry."""
    urls = data_of(external, "Secret", "lokroom-connections")
    if "sslmode=require" not in urls["database-url"]:
        yield "secrets.example.yaml: database-url has no sslmode=require"
    for key in ("amqp-url", "keda-amqp-url"):
        if not urls[key].startswith("amqps://"):
            yield f"secrets.example.yaml: {key} is not amqps://"
    for it in of_kind(objects, "NetworkPolicy"):
        for rule in it["spec"].get("egress", []):
            if it["metadata"]["name"] != "dispatcher-to-receivers" and 5672 in {p["port"] for p in rule["ports"]}:
                yield f"{label(it)}: AMQP without TLS is let through"
    for it, template in pods(objects):
        container = template["spec"]["containers"][0]
        if "." not in container["image"].partition("/")[0]:
            yield f"{label(it)}: image {container['image']} is not from a registry: versions/ does not name it"
        if "LOK__DATABASE__CA_FILE" not in literals(container, objects):
            yield f"{label(it)}: does not know whom to believe for PostgreSQL (LOK__DATABASE__CA_FILE)"
    if not of_kind(objects, "Ingress"):
        yield "the management API cannot be reached"

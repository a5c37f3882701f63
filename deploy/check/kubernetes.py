"""Renders k8s/ and checks it; then breaks the rendered objects, one thing at a time, and demands that it is noticed."""

import copy
import subprocess
import sys

import yaml

import facts
import manifests

ENVIRONMENTS = {
    "base": ("k8s/base", "k8s/migrate"),
    "production": ("k8s/overlays/production", "k8s/overlays/production/migrate"),
}


def render(path):
    run = subprocess.run(
        ["kubectl", "kustomize", facts.ROOT / path], capture_output=True, text=True, timeout=60, check=False
    )
    if run.returncode != 0:
        sys.exit(f"error: kubectl kustomize {path}: {run.stderr.strip()}")
    return [it for it in yaml.safe_load_all(run.stdout) if it]


def problems(name, objects, external):
    found = list(manifests.problems(objects, external))
    if name == "production":
        found += manifests.production_problems(objects, external)
    return found


def find(objects, kind, name):
    return next(it for it in objects if it["kind"] == kind and it["metadata"]["name"].startswith(name))


def container(objects, service):
    return find(objects, "Deployment", service)["spec"]["template"]["spec"]["containers"][0]


def pod(objects, service):
    return find(objects, "Deployment", service)["spec"]["template"]["spec"]


def receivers(objects):
    return find(objects, "NetworkPolicy", "dispatcher-to-receivers")["spec"]["egress"][0]["to"]


# What could go wrong, and has to be noticed.
BREAKAGES = {
    "a field that Kubernetes does not know": lambda o: pod(o, "dispatcher").update(restartPolicyy="Always"),
    "a value of the wrong type": lambda o: find(o, "Service", "event-ingest")["spec"]["ports"][0].update(port="80a"),
    "a probe on another path": lambda o: container(o, "event-ingest")["readinessProbe"]["httpGet"].update(path="/healthz"),
    "no probe": lambda o: container(o, "dispatcher").pop("livenessProbe"),
    "an admin server that nobody can reach": lambda o: container(o, "dispatcher")["env"][0].update(value="127.0.0.1:9082"),
    "another port than the service's": lambda o: container(o, "management-api")["ports"][0].update(containerPort=8081),
    "a key that the configuration does not know": lambda o: container(o, "dispatcher")["env"].append(
        {"name": "LOK__DELIVERY__TIMOUT", "value": "10s"}
    ),
    "a setting that is needed and left out": lambda o: container(o, "dispatcher")["env"].pop(1),
    "a secret in plain sight": lambda o: container(o, "dispatcher")["env"].append(
        {"name": "LOK__INGEST__TOKEN", "value": "hunter2"}
    ),
    "a secret that does not exist": lambda o: container(o, "event-ingest")["env"][2]["valueFrom"]["secretKeyRef"].update(
        key="ingest-tokn"
    ),
    "a CA file that is not mounted": lambda o: find(o, "ConfigMap", "lokroom-config")["data"].update(
        LOK__AMQP__CA_FILE="/etc/ssl/ca.pem"
    ),
    "a grace period that ends before the service's": lambda o: pod(o, "event-ingest").update(
        terminationGracePeriodSeconds=15
    ),
    "a longer drain than the pod is given": lambda o: find(o, "ConfigMap", "lokroom-config")["data"].update(
        LOK__SHUTDOWN__GRACE="60s"
    ),
    "no preStop where proxies call": lambda o: container(o, "management-api").pop("lifecycle"),
    "root": lambda o: pod(o, "dispatcher")["securityContext"].update(runAsNonRoot=False),
    "a writable root": lambda o: container(o, "dispatcher")["securityContext"].update(readOnlyRootFilesystem=False),
    "no limit of memory": lambda o: container(o, "dispatcher")["resources"].pop("limits"),
    "an image without a version": lambda o: container(o, "dispatcher").update(image="lokroom/dispatcher:latest"),
    "a migration of another version": lambda o: find(o, "Job", "lokctl")["spec"]["template"]["spec"]["containers"][0].update(
        image="registry.example.com/lokroom/lokctl:9.9.9"
    ),
    "no disruption budget": lambda o: o.remove(find(o, "PodDisruptionBudget", "dispatcher")),
    "a Service that selects nothing": lambda o: find(o, "Service", "event-ingest")["spec"]["selector"].update(
        {manifests.NAME: "ingest"}
    ),
    "the admin port in a Service": lambda o: find(o, "Service", "event-ingest")["spec"]["ports"][0].update(
        targetPort="admin"
    ),
    "no default-deny policy": lambda o: o.remove(find(o, "NetworkPolicy", "default-deny")),
    "a policy that lets everybody in": lambda o: find(o, "NetworkPolicy", "event-ingest")["spec"]["ingress"][0].pop("from"),
    "receivers in a private network": lambda o: receivers(o)[0]["ipBlock"]["except"].remove("10.0.0.0/8"),
    "receivers in IPv6 documentation space": lambda o: receivers(o)[1]["ipBlock"]["except"].remove("2001:db8::/32"),
    "an exception outside its block": lambda o: receivers(o)[1]["ipBlock"]["except"].append("fc00::/7"),
    "no way to the database": lambda o: o.remove(find(o, "NetworkPolicy", "database-and-broker")),
    "a secret in git": lambda o: o.append(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys", "namespace": facts.NAMESPACE},
            "stringData": {"a": "b"},
        }
    ),
}
PRODUCTION_BREAKAGES = {
    "a queue that does not exist": lambda o: find(o, "ScaledObject", "dispatcher")["spec"]["triggers"][0]["metadata"].update(
        queueName="webhooks.delivery"
    ),
    "a shard whose backlog calls for nobody": lambda o: find(o, "ConfigMap", "lokroom-config")["data"].update(
        LOK__AMQP__SHARDS="2"
    ),
    "a scaler's parameter that is no string": lambda o: find(o, "ScaledObject", "dispatcher")["spec"]["triggers"][0][
        "metadata"
    ].update(value=4000),
    "replicas that fight with KEDA": lambda o: find(o, "Deployment", "dispatcher")["spec"].update(replicas=2),
    "an Ingress to event-ingest": lambda o: find(o, "Ingress", "management-api")["spec"]["rules"][0]["http"]["paths"][0][
        "backend"
    ]["service"].update(name="event-ingest"),
    "an Ingress without TLS": lambda o: find(o, "Ingress", "management-api")["spec"].pop("tls"),
    "AMQP without TLS": lambda o: find(o, "NetworkPolicy", "database-and-broker")["spec"]["egress"][1]["ports"][0].update(
        port=5672
    ),
}


def main():
    external = list(yaml.safe_load_all(facts.source("k8s/secrets.example.yaml")))
    unbuilt = [service for service in facts.SERVICES if facts.print_config(service, {}) is None]
    if unbuilt:
        print(f"  not built, so values are not checked by the program itself: {', '.join(unbuilt)}")
    failed = False
    for name, paths in ENVIRONMENTS.items():
        objects = [it for path in paths for it in render(path)]
        found = problems(name, objects, external)
        for problem in found:
            print(f"  {name}: {problem}", file=sys.stderr)
        print(f"  {name}: {len(objects)} objects, Kubernetes {' and '.join(manifests.KUBERNETES)}: {len(found)} problems")
        if found:
            failed = True
            continue
        breakages = BREAKAGES | (PRODUCTION_BREAKAGES if name == "production" else {})
        for what, break_it in breakages.items():
            broken = copy.deepcopy(objects)
            break_it(broken)
            if not problems(name, broken, external):
                print(f"  {name}: not noticed: {what}", file=sys.stderr)
                failed = True
        print(f"  {name}: {len(breakages)} breakages tried on it")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

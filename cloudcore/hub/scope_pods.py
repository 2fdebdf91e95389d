"""What a pod needs on its node, and what belongs to it there (pure).

A finished pod reads nothing any more: it keeps its owners and its namespace, and no Secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cloudcore.hub.scope_graph import Edge, root
from cloudcore.kube import resources
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLAIM, CONFIG_MAP, POD, RUNTIME_CLASS, SECRET, SERVICE_ACCOUNT, VOLUME, Kind
from proto import templates
from proto.labels import MIRROR
from proto.templates import HOSTNAME
from proto.told import CONDITIONS, PHASE, gate_conditions

FINISHED = ("Succeeded", "Failed")
ENDED_BY_NODE = ("PodCompleted", "PodFailed")
TOLD_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime")
Json = Mapping[str, Any]
# Which owners are followed up from which kind. No circle can be made of these.
OWNERS: dict[Kind, tuple[Kind, ...]] = {
    POD: (resources.REPLICA_SET, resources.DAEMON_SET, resources.STATEFUL_SET, resources.JOB, resources.DEPLOYMENT),
    resources.REPLICA_SET: (resources.DEPLOYMENT,),
    resources.JOB: (resources.CRON_JOB,),
}


def space(namespace: str) -> str:
    """Return the vertex of what every pod of a namespace may look at."""
    return f"@space/{namespace}"


def host(name: str) -> str:
    """Return the vertex of what lies on the machine of this host name."""
    return f"@host/{name}"


def is_finished(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in FINISHED


def is_mirror(pod: Json) -> bool:
    return MIRROR in (pod["metadata"].get("annotations") or {})


def told(pod: Json) -> dict[str, Any]:
    """Return what the pod's node must hear of its status (proto.told), {} for most.

    A node that has ended a pod itself says so in the reason of ContainersReady, as kubelet does.
    """
    out: dict[str, Any] = {}
    conditions = (pod.get("status") or {}).get("conditions") or ()
    by_node = any(c.get("type") == "ContainersReady" and c.get("reason") in ENDED_BY_NODE for c in conditions)
    if is_finished(pod) and not by_node:
        out[PHASE] = pod["status"]["phase"]
    if found := gate_conditions(pod):
        out[CONDITIONS] = [{k: c[k] for k in TOLD_FIELDS if c.get(k)} for c in found]
    return out


def pod_node(pod: Json | None) -> str:
    """Return the node that a pod is bound to, "" for none."""
    return str(((pod or {}).get("spec") or {}).get("nodeName") or "")


def pod(name: Name, item: Json) -> Iterator[Edge]:
    key, node = POD.key(*name), pod_node(item)
    if not node:
        return
    yield root(node), key
    if is_mirror(item):  # a node makes these itself, in any namespace: they bring it nothing at all
        return
    yield key, space(name.namespace)
    yield from owners(POD, name, item)
    if not is_finished(item):
        for need in needs(name.namespace, item.get("spec") or {}):
            yield key, need


def needs(namespace: str, spec: Json) -> Iterator[str]:
    """Yield the key of everything that a pod of this spec reads."""
    yield SERVICE_ACCOUNT.key(namespace, spec.get("serviceAccountName") or "default")
    for secret in spec.get("imagePullSecrets") or ():
        yield from _named(SECRET, namespace, secret)
    for volume in spec.get("volumes") or ():
        yield from _of_volume(namespace, volume)
        if "ephemeral" in volume:  # its claim is named after the pod: see ``claim``
            continue
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _of_volume(namespace, source)
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            yield from _of_environment(namespace, container)
    if runtime := spec.get("runtimeClassName"):
        yield RUNTIME_CLASS.key("", runtime)


def _of_volume(namespace: str, volume: Json) -> Iterator[str]:
    secret = volume.get("secret") or {}
    yield from _named(SECRET, namespace, {"name": secret.get("secretName") or secret.get("name")})
    yield from _named(CONFIG_MAP, namespace, volume.get("configMap"))
    claim = volume.get("persistentVolumeClaim") or {}
    yield from _named(CLAIM, namespace, {"name": claim.get("claimName")})
    for driver in ("csi", "flexVolume", "cephfs", "iscsi", "rbd", "scaleIO", "storageos"):
        source = volume.get(driver) or {}
        yield from _named(SECRET, namespace, source.get("nodePublishSecretRef") or source.get("secretRef"))


def _of_environment(namespace: str, container: Json) -> Iterator[str]:
    for source in container.get("envFrom") or ():
        yield from _named(SECRET, namespace, source.get("secretRef"))
        yield from _named(CONFIG_MAP, namespace, source.get("configMapRef"))
    for variable in container.get("env") or ():
        value = variable.get("valueFrom") or {}
        yield from _named(SECRET, namespace, value.get("secretKeyRef"))
        yield from _named(CONFIG_MAP, namespace, value.get("configMapKeyRef"))


def _named(kind: Kind, namespace: str, ref: Any) -> Iterator[str]:
    name = ref.get("name") if isinstance(ref, Mapping) else None
    if name:
        yield kind.key(namespace, str(name))


def owners(kind: Kind, name: Name, item: Json) -> Iterator[Edge]:
    """Yield the edges to those who own ``item``, in its own namespace."""
    known = {(k.api_version.partition("/")[0] if k.group else "", k.kind): k for k in OWNERS.get(kind, ())}
    for ref in item["metadata"].get("ownerReferences") or ():
        group, slash, _ = str(ref.get("apiVersion") or "").partition("/")
        owner = known.get((group if slash else "", str(ref.get("kind"))))
        if owner is not None and ref.get("name"):
            yield kind.key(*name), owner.key(name.namespace, ref["name"])


def replica_set(name: Name, item: Json) -> Iterator[Edge]:
    yield from owners(resources.REPLICA_SET, name, item)


def account(name: Name, item: Json) -> Iterator[Edge]:
    """A ServiceAccount brings the Secrets that its pods' images are pulled with, and its rights."""
    key = SERVICE_ACCOUNT.key(*name)
    yield key, ACCOUNTS
    for secret in item.get("imagePullSecrets") or ():
        for need in _named(SECRET, name.namespace, secret):
            yield key, need


ACCOUNTS = "@accounts"  # held by a node that has a pod, that is a service account, at all


def claim(name: Name, item: Json) -> Iterator[Edge]:
    key = CLAIM.key(*name)
    if volume := (item.get("spec") or {}).get("volumeName"):
        yield key, VOLUME.key("", volume)
    for ref in item["metadata"].get("ownerReferences") or ():  # an ephemeral volume's claim belongs to its pod
        if ref.get("kind") == POD.kind and ref.get("apiVersion") == POD.api_version and ref.get("name"):
            yield POD.key(name.namespace, ref["name"]), key


def volume(name: Name, item: Json) -> Iterator[Edge]:
    """A volume on a node's own disk is that node's, with its claim, also when no pod uses it: its data is there."""
    places = [root(node) for node in _only(item, "matchFields", "metadata.name")]
    places += [host(machine) for machine in _only(item, "matchExpressions", HOSTNAME)]
    ref = (item.get("spec") or {}).get("claimRef") or {}
    for place in places:
        yield place, VOLUME.key("", name.name)
        if ref.get("namespace") and ref.get("name"):
            yield place, CLAIM.key(ref["namespace"], ref["name"])


def _only(volume: Json, field: str, key: str) -> set[str]:
    """Return the values that some term of a volume's node affinity demands of ``key``."""
    affinity = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    rules = [rule for term in affinity.get("nodeSelectorTerms") or () for rule in term.get(field) or ()]
    named = [rule for rule in rules if rule.get("key") == key and rule.get("operator") == "In"]
    return {str(value) for rule in named for value in rule.get("values") or ()}


def service(name: Name, _item: Json) -> Iterator[Edge]:
    yield space(name.namespace), resources.SERVICE.key(*name)


def endpoint_slice(name: Name, _item: Json) -> Iterator[Edge]:
    yield space(name.namespace), resources.ENDPOINT_SLICE.key(*name)


def namespace(name: Name, _item: Json) -> Iterator[Edge]:
    yield space(name.name), resources.NAMESPACE.key("", name.name)


def job(name: Name, item: Json) -> Iterator[Edge]:
    yield from owners(resources.JOB, name, item)
    template = (item.get("spec") or {}).get("template") or {}
    yield from _pinned(resources.JOB.key(*name), name, template)


def cron_job(name: Name, item: Json) -> Iterator[Edge]:
    job_template = ((item.get("spec") or {}).get("jobTemplate") or {}).get("spec") or {}
    yield from _pinned(resources.CRON_JOB.key(*name), name, job_template.get("template") or {})


def _pinned(key: str, name: Name, template: Json) -> Iterator[Edge]:
    """What only one node can run, it must be able to start without the cloud: with all that its pods will need."""
    spec = template.get("spec") or {}
    node = templates.pinned_node(dict(spec))
    if node:
        yield root(node), key
        yield key, space(name.namespace)
        for need in needs(name.namespace, spec):
            yield key, need

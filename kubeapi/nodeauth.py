"""What a node may see and write: its own objects, and what those refer to (Kubernetes' node authorizer, stricter).

A list or a watch must say so in its field selector (``spec.nodeName=``, ``metadata.name=``), so that what it returns is
what was allowed. ``NodeRestriction`` looks at the object that would be stored.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubeapi.access import Attributes, User
from kubeapi.admission import Attempt
from kubeapi.errors import forbidden
from kubeapi.kinds import CERTIFICATE_SIGNING_REQUEST, POD
from kubeapi.resources import Registry
from kubeapi.store import Store
from proto.labels import MIRROR, may_say_of_itself
from proto.templates import HOSTNAME

DEVICES = "devices.kubeedge.io"
LEASES_NAMESPACE = "kube-node-lease"
FINISHED = ("Succeeded", "Failed")
DEFAULT_ACCOUNT = "default"  # filled in for every pod; a mirror has no use of it
READS = frozenset({"get", "list", "watch"})
WRITES = frozenset({"update", "patch"})


class NodeAuthorizer:
    """Authorizer for users of ``system:nodes``; has no opinion on anybody else."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store, self._registry = store, registry
        self._rules: dict[tuple[str, str], Callable[[Attributes, str], bool]] = {
            ("", "nodes"): self._nodes,
            ("", "pods"): self._pods,
            ("", "secrets"): self._referenced,
            ("", "configmaps"): self._referenced,
            ("", "serviceaccounts"): self._accounts,
            ("", "events"): lambda wanted, _: wanted.verb in ("create", "update", "patch"),
            ("events.k8s.io", "events"): lambda wanted, _: wanted.verb in ("create", "update", "patch"),
            ("coordination.k8s.io", "leases"): self._leases,
            ("certificates.k8s.io", "certificatesigningrequests"): self._signing_requests,
            (DEVICES, "devices"): self._devices,
            (DEVICES, "devicemodels"): self._models,
            (DEVICES, "devicestatuses"): self._statuses,
        }

    def allows(self, wanted: Attributes) -> str:
        node = wanted.user.node
        rule = self._rules.get((wanted.group, wanted.resource)) if node else None
        return f"node {node}" if rule is not None and rule(wanted, node) else ""

    def _nodes(self, wanted: Attributes, node: str) -> bool:
        if wanted.verb == "create":
            return not wanted.subresource  # NodeRestriction checks the name
        own = _single(wanted) == node
        return own and (wanted.verb in READS or (wanted.verb in WRITES and wanted.subresource in ("", "status")))

    def _pods(self, wanted: Attributes, node: str) -> bool:
        if wanted.verb in ("list", "watch") and not wanted.name:
            return wanted.fields.get("spec.nodeName") == node
        if wanted.verb == "create" and not wanted.subresource:
            return True  # NodeRestriction lets through a mirror of a static pod alone
        bound = self._on_node("", "pods", wanted, node)
        if wanted.subresource:
            return bound and (wanted.subresource, wanted.verb) in {
                ("status", "get"), ("status", "update"), ("status", "patch"), ("eviction", "create"),
            }  # fmt: skip
        return bound and (wanted.verb in READS or wanted.verb == "delete")

    def _referenced(self, wanted: Attributes, node: str) -> bool:
        name = _single(wanted)
        if wanted.verb not in READS or not name or wanted.subresource:
            return False
        return any((wanted.resource, name) in references(pod) for pod in self._pods_of(node, wanted.namespace))

    def _accounts(self, wanted: Attributes, node: str) -> bool:
        asked = (wanted.subresource, wanted.verb) in {("", "get"), ("token", "create")}
        return asked and any(
            (pod["spec"].get("serviceAccountName") or DEFAULT_ACCOUNT) == wanted.name
            for pod in self._pods_of(node, wanted.namespace)
        )

    def _leases(self, wanted: Attributes, node: str) -> bool:
        if wanted.namespace != LEASES_NAMESPACE:
            return False
        if wanted.verb == "create":
            return True  # NodeRestriction checks the name
        return _single(wanted) == node and wanted.verb in READS | WRITES | {"delete"}

    def _signing_requests(self, wanted: Attributes, node: str) -> bool:
        if wanted.verb == "create":
            return not wanted.subresource
        found = self._store.get(CERTIFICATE_SIGNING_REQUEST, "", _single(wanted))
        own = found is not None and (found.get("spec") or {}).get("username") == wanted.user.name
        return wanted.verb in READS and not wanted.subresource and own and bool(node)

    def _devices(self, wanted: Attributes, node: str) -> bool:
        if wanted.verb not in READS:
            return False
        if wanted.verb != "get" and wanted.fields.get("spec.nodeName") == node:
            return True
        return self._on_node(DEVICES, "devices", wanted, node)

    def _models(self, wanted: Attributes, node: str) -> bool:
        name = _single(wanted)
        return wanted.verb in READS and any(
            ((device["spec"].get("deviceModelRef") or {}).get("name")) == name
            for device in self._list(DEVICES, "devices", wanted.namespace)
            if (device.get("spec") or {}).get("nodeName") == node
        )

    def _statuses(self, wanted: Attributes, node: str) -> bool:
        if not self._on_node(DEVICES, "devices", wanted, node):
            return False
        return wanted.verb in READS or (wanted.verb in WRITES and wanted.subresource in ("", "status"))

    def _on_node(self, group: str, plural: str, wanted: Attributes, node: str) -> bool:
        """Whether the object of that kind that ``wanted`` names has ``spec.nodeName`` ``node``."""
        name = _single(wanted)
        for res in self._registry.all():
            if name and wanted.namespace and (res.group, res.plural) == (group, plural):
                found = self._store.get(res, wanted.namespace, name)
                return found is not None and (found.get("spec") or {}).get("nodeName") == node
        return False

    def _list(self, group: str, plural: str, namespace: str) -> list[dict[str, Any]]:
        for res in self._registry.all():
            if (res.group, res.plural) == (group, plural):
                return self._store.list(res, namespace)
        return []

    def _pods_of(self, node: str, namespace: str) -> Iterator[dict[str, Any]]:
        """Yield the pods that may read something: a node makes mirrors itself, and a finished pod reads nothing."""
        for pod in self._store.list(POD, namespace):
            finished = (pod.get("status") or {}).get("phase") in FINISHED
            if (pod.get("spec") or {}).get("nodeName") == node and not finished and not _is_mirror(pod):
                yield pod


def references(pod: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return (``secrets`` or ``configmaps``, name) of everything that ``pod`` mounts or reads."""
    spec = pod.get("spec") or {}
    out = {("secrets", secret.get("name", "")) for secret in spec.get("imagePullSecrets") or ()}
    for volume in spec.get("volumes") or ():
        parts = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for part in parts:
            secret, config = part.get("secret") or {}, part.get("configMap") or {}
            out |= {
                ("secrets", secret.get("secretName") or secret.get("name", "")),
                ("configmaps", config.get("name", "")),
            }
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for source in container.get("envFrom") or ():
            out.add(("secrets", (source.get("secretRef") or {}).get("name", "")))
            out.add(("configmaps", (source.get("configMapRef") or {}).get("name", "")))
        for variable in container.get("env") or ():
            value = variable.get("valueFrom") or {}
            out.add(("secrets", (value.get("secretKeyRef") or {}).get("name", "")))
            out.add(("configmaps", (value.get("configMapKeyRef") or {}).get("name", "")))
    return {(kind, name) for kind, name in out if name}


def node_restriction(attempt: Attempt) -> None:
    """A Hook: refuse what a node would store beyond its own. Raises 403."""
    user, obj = attempt.user, attempt.obj
    node = user.node if isinstance(user, User) else ""
    if not node or obj is None:
        return
    kind = attempt.res.kind
    if kind == "Node":
        _restrict_node(attempt, node, obj)
    elif kind == "Pod" and attempt.old is None:
        if not _is_mirror(obj) or obj["spec"].get("nodeName") != node or _asks_for_more(obj):
            raise forbidden(
                attempt.res,
                attempt.name,
                f'node "{node}" may only create mirror pods of its own, which refer to no object of the API',
            )
    elif kind == "Lease" and attempt.name != node:
        raise forbidden(attempt.res, attempt.name, f'node "{node}" may only have the lease that bears its name')


def _is_mirror(pod: Mapping[str, Any]) -> bool:
    return MIRROR in (pod["metadata"].get("annotations") or {})


def _asks_for_more(pod: Mapping[str, Any]) -> bool:
    """Whether a pod refers to objects of the API, or has the cluster make some."""
    spec = pod["spec"]
    volumes = spec.get("volumes") or ()
    projected = [source for volume in volumes for source in (volume.get("projected") or {}).get("sources") or ()]
    return bool(
        references(pod)
        or (spec.get("serviceAccountName") or DEFAULT_ACCOUNT) != DEFAULT_ACCOUNT
        or spec.get("resourceClaims")
        or any("persistentVolumeClaim" in volume or "ephemeral" in volume for volume in volumes)
        or any("serviceAccountToken" in source or "clusterTrustBundle" in source for source in projected)
    )


def _restrict_node(attempt: Attempt, node: str, obj: Mapping[str, Any]) -> None:
    if attempt.name != node:
        raise forbidden(attempt.res, attempt.name, f'node "{node}" is not allowed to modify node "{attempt.name}"')
    old = attempt.old or {}
    before, after = (((o.get("metadata") or {}).get("labels") or {}) for o in (old, obj))
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    restricted = sorted(k for k in changed if not may_say_of_itself(k))
    if restricted:
        raise forbidden(attempt.res, node, f"a node may not set its own label {restricted[0]}")
    if HOSTNAME in changed and after.get(HOSTNAME) != node:  # volumes of a host go to who has its name
        raise forbidden(attempt.res, node, f"the label {HOSTNAME} of a node is its name")
    if attempt.old is not None and (old.get("spec") or {}).get("taints") != (obj.get("spec") or {}).get("taints"):
        raise forbidden(attempt.res, node, "a node may not change its own taints")


def _single(wanted: Attributes) -> str:
    """Return the one name that ``wanted`` is about, from the path or from its field selector."""
    return wanted.name or wanted.fields.get("metadata.name", "")

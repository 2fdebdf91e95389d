"""What every API has at its start: permanent namespaces, default roles and bindings, priority and storage classes."""

from contextlib import suppress
from typing import Any

from kubeapi.access import INTERNAL
from kubeapi.errors import ApiError
from kubeapi.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE, PRIORITY_CLASS, STORAGE_CLASS
from kubeapi.objects import Objects, WriteOptions
from kubeapi.rbac_defaults import LABEL, default_bindings, default_roles
from kubeapi.resources import Resource

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"  # "false" on a default role keeps a person's changes

PRIORITIES = {
    "system-cluster-critical": (2_000_000_000, "Pods that the cluster cannot do without, on any node."),
    "system-node-critical": (2_000_001_000, "Pods that their node cannot do without."),
}
LOCAL_PATH = "local-path"


def priority_classes() -> list[dict[str, Any]]:
    """Return the PriorityClasses whose names are reserved for the system."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": text,
            "preemptionPolicy": "PreemptLowerPriority",
        }
        for name, (value, text) in PRIORITIES.items()
    ]


def storage_class() -> dict[str, Any]:
    """Return the default StorageClass: a directory of the node that the pod runs on."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": LOCAL_PATH, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "edge.skerry.io/local-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


async def ensure_defaults(objects: Objects) -> None:
    """Make what is missing, and bring default roles to what this version says. Safe to call at every start."""
    for name in NAMESPACES:
        await _ensure(objects, NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for role in default_roles():
        await _ensure(objects, CLUSTER_ROLE, role, ("rules", "aggregationRule"))
    for binding in default_bindings():
        await _ensure(objects, CLUSTER_ROLE_BINDING, binding)
    for priority in priority_classes():
        await _ensure(objects, PRIORITY_CLASS, priority)
    await _ensure(objects, STORAGE_CLASS, storage_class())


async def _ensure(objects: Objects, res: Resource, wanted: dict[str, Any], owned: tuple[str, ...] = ()) -> None:
    opts = WriteOptions(field_manager="skerry", user=INTERNAL)
    held = objects.store.get(res, "", wanted["metadata"]["name"])
    if held is None:
        with suppress(ApiError):  # made by somebody else meanwhile
            await objects.create(res, "", wanted, opts)
        return
    mine = (held["metadata"].get("labels") or {}).get(LABEL) and (
        (held["metadata"].get("annotations") or {}).get(AUTO_UPDATE) != "false"
    )
    if mine and any(held.get(part) != wanted.get(part) for part in owned):
        kept = {key: value for key, value in held.items() if key not in owned}
        body = {**kept, **{key: wanted[key] for key in owned if key in wanted}}
        await objects.update(res, "", wanted["metadata"]["name"], body, opts)

"""What every API has at its start: permanent namespaces, default roles and bindings, priority and storage classes."""

import ipaddress
from contextlib import suppress
from typing import Any

from kubeapi.access import INTERNAL
from kubeapi.errors import ApiError
from kubeapi.kinds import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    ENDPOINT_SLICE,
    NAMESPACE,
    PRIORITY_CLASS,
    SERVICE,
    STORAGE_CLASS,
)
from kubeapi.objects import Objects, WriteOptions
from kubeapi.rbac_defaults import LABEL, default_bindings, default_roles
from kubeapi.resources import Resource

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"  # "false" on a default role keeps a person's changes

PRIORITIES = {
    "system-cluster-critical": (2_000_000_000, "Pods that the cluster cannot do without, on any node."),
    "system-node-critical": (2_000_001_000, "Pods that their node cannot do without."),
}
LOCAL_PATH, LOCAL_PROVISIONER = "local-path", "edge.skerry.io/local-path"


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
        "provisioner": LOCAL_PROVISIONER,
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


async def ensure_api_service(objects: Objects, address: str, host: str, port: int) -> None:
    """Make the Service ``kubernetes``, by which pods of this cluster find the API, and its endpoint where ``host`` is one address."""
    metadata: dict[str, Any] = {
        "name": "kubernetes",
        "namespace": "default",
        "labels": {"component": "apiserver", "provider": "kubernetes"},
    }
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
    await _ensure(objects, SERVICE, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    if not _is_one_address(host):
        return
    labels = {"kubernetes.io/service-name": "kubernetes"}
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "https", "protocol": "TCP", "port": port}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
    }
    await _ensure(objects, ENDPOINT_SLICE, body)


def _is_one_address(host: str) -> bool:
    """Whether other machines reach ``host``: an endpoint may be neither every address nor this machine's own loop."""
    try:
        found = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return not found.is_unspecified and not found.is_loopback


async def _ensure(objects: Objects, res: Resource, wanted: dict[str, Any], owned: tuple[str, ...] = ()) -> None:
    opts = WriteOptions(field_manager="skerry", user=INTERNAL)
    namespace = wanted["metadata"].get("namespace", "")
    held = objects.store.get(res, namespace, wanted["metadata"]["name"])
    if held is None:
        with suppress(ApiError):  # made by somebody else meanwhile
            await objects.create(res, namespace, wanted, opts)
        return
    if res in (SERVICE, ENDPOINT_SLICE):  # only where the API answers may change, and only to what is true now
        await _update_endpoint(objects, res, held, wanted, opts)
        return
    mine = (held["metadata"].get("labels") or {}).get(LABEL) and (
        (held["metadata"].get("annotations") or {}).get(AUTO_UPDATE) != "false"
    )
    if mine and any(held.get(part) != wanted.get(part) for part in owned):
        kept = {key: value for key, value in held.items() if key not in owned}
        body = {**kept, **{key: wanted[key] for key in owned if key in wanted}}
        await objects.update(res, "", wanted["metadata"]["name"], body, opts)


async def _update_endpoint(
    objects: Objects, res: Resource, held: dict[str, Any], wanted: dict[str, Any], opts: WriteOptions
) -> None:
    if res == SERVICE:
        spec = held.get("spec") or {}
        body = {**held, "spec": {**spec, "ports": wanted["spec"]["ports"]}}
    else:
        body = {**held, **{key: wanted[key] for key in ("endpoints", "ports")}}
    if body != held:
        with suppress(ApiError):
            await objects.update(res, held["metadata"]["namespace"], held["metadata"]["name"], body, opts)

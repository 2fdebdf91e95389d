"""What every API has at its start: the permanent namespaces, the default roles and bindings."""

from contextlib import suppress
from typing import Any

from kubeapi.access import INTERNAL
from kubeapi.errors import ApiError
from kubeapi.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE
from kubeapi.objects import Objects, WriteOptions
from kubeapi.rbac_defaults import LABEL, default_bindings, default_roles
from kubeapi.resources import Resource

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"  # "false" on a default role keeps a person's changes


async def ensure_defaults(objects: Objects) -> None:
    """Make what is missing, and bring default roles to what this version says. Safe to call at every start."""
    for name in NAMESPACES:
        await _ensure(objects, NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for role in default_roles():
        await _ensure(objects, CLUSTER_ROLE, role, ("rules", "aggregationRule"))
    for binding in default_bindings():
        await _ensure(objects, CLUSTER_ROLE_BINDING, binding)


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

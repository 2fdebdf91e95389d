"""How a status of each kind gets into the API: one writer per kind that edges report about.

Every write carries the uid of the object it is meant for: an object deleted and made again inherits nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from cloudcore.hub.scope_pods import is_finished, pod_node
from cloudcore.kube.client import JSON_PATCH, STRATEGIC_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, Conflict, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DEVICE_STATUS, POD, is_owned_by
from proto.told import gates

ATTEMPTS = 3  # the object may be replaced under our hands once, and once more by its controller
WRONG_UID, NOT_THIS_NODE, FINISHED_BEFORE = "wrong-uid", "not-this-node", "finished"
# What a node says of a pod; everything else in a PodStatus belongs to others and stays.
OWN_FIELDS = (
    "phase",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "observedGeneration",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
)
OWN_CONDITIONS = ("ContainersReady", "Initialized", "PodReadyToStartContainers", "Ready")
NO_LONGER_SAID = {"reason": None, "message": None}  # a condition that became true has no reason: the old one must go
MERGED_BY_KEY = ("hostIPs", "podIPs")  # a strategic patch would keep addresses that are gone
EnsureStatus = Callable[[Name], Awaitable[dict[str, Any] | None]]
PutNodeStatus = Callable[[str, dict[str, Any]], Awaitable[None]]
Owns = Callable[[str, Name], bool]
Print = tuple[str, ...]


class StatusBody(msgspec.Struct, frozen=True):
    """What an edge says about one object. ``uid`` is the object's (of a DeviceStatus: its Device's), "" for the Node."""

    uid: str
    version: int  # an edge counter; grows at each change
    status: dict[str, Any]


class StatusWriter(Protocol):
    """Writes the statuses of one kind."""

    def owns(self, node: str, name: Name) -> bool:
        """Whether ``node`` may say something about the object."""
        ...

    async def write(self, node: str, name: Name, body: StatusBody, *, first: bool) -> str:
        """Return "" when the API has it, else why it was dropped. Raises ApiUnavailable, ApiRefused.

        ``first``: this process has not written this key yet, so the informer is sure to show what the API holds.
        """
        ...

    def print_of(self, status: Mapping[str, Any]) -> Print:
        """Return what others might change of a status that a node has said."""
        ...

    def shown(self, name: Name, uid: str) -> Print | None:
        """Return the same of what the API shows; None when the object ``uid`` is gone."""
        ...


class SoleWriter:
    """A status that nobody else writes."""

    def print_of(self, status: Mapping[str, Any]) -> Print:
        del status
        return ()

    def shown(self, name: Name, uid: str) -> Print | None:
        del name, uid
        return ()


class NodeStatuses(SoleWriter):
    """The Node itself, by the node controller."""

    def __init__(self, put: PutNodeStatus) -> None:
        self._put = put

    def owns(self, node: str, name: Name) -> bool:
        return name.name == node

    async def write(self, node: str, name: Name, body: StatusBody, *, first: bool) -> str:
        del name, first
        await self._put(node, body.status)
        return ""


class DeviceStatuses(SoleWriter):
    """The only writer of ``DeviceStatus.status``. ``ensure`` belongs to the device controller."""

    def __init__(self, cluster: Cluster, owns: Owns, ensure: EnsureStatus) -> None:
        self._client, self._paths = cluster.client, cluster.paths
        self._devices, self._statuses = cluster.devices, cluster.statuses
        self._ensure, self.owns = ensure, owns

    async def write(self, node: str, name: Name, body: StatusBody, *, first: bool) -> str:
        del node
        for attempt in range(ATTEMPTS):
            device = self._devices.objects.get(name)
            if device is None or device["metadata"]["uid"] != body.uid:
                return WRONG_UID
            target = self._statuses.objects.get(name) if attempt == 0 else None
            if target is None or not is_owned_by(target, body.uid):
                target = await self._ensure(name)
            if target is None:
                return WRONG_UID
            if first and target.get("status") == body.status:
                return ""
            try:
                await self._patch(name, target["metadata"]["uid"], body.status)
            except (NotFound, Conflict):
                self._paths.forget()
            except ApiRefused as error:
                if error.status != 422 or attempt == ATTEMPTS - 1:  # 422 is also what a failed uid test gets
                    raise
            else:
                return ""
        key = DEVICE_STATUS.key(*name)
        raise Conflict(409, "Conflict", f"{key} was replaced {ATTEMPTS} times while it was written")

    async def _patch(self, name: Name, uid: str, status: dict[str, Any]) -> None:
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        subresource = await self._paths.subresource(DEVICE_STATUS)
        await self._client.patch(DEVICE_STATUS, *name, patch, content_type=JSON_PATCH, subresource=subresource)


class PodStatuses:
    """The node's half of ``Pod.status``: conditions that others own stay, and a finished pod stays finished."""

    def __init__(self, cluster: Cluster, owns: Owns) -> None:
        self._client, self._pods, self.owns = cluster.client, cluster.pods, owns

    async def write(self, node: str, name: Name, body: StatusBody, *, first: bool) -> str:
        pod = self._pods.objects.get(name)
        if pod is None or pod["metadata"]["uid"] != body.uid:
            return WRONG_UID
        if pod_node(pod) != node:
            return NOT_THIS_NODE
        current, status = pod.get("status") or {}, of_node(pod, body.status)
        if is_finished(pod) and status.get("phase") != current["phase"]:
            return FINISHED_BEFORE
        if first and merged(current, status) == current:
            return ""
        patch = {"metadata": {"uid": body.uid}, "status": patch_of(current, status)}
        try:
            await self._client.patch(POD, *name, patch, content_type=STRATEGIC_PATCH, subresource="status")
        except (NotFound, Conflict):
            return WRONG_UID
        return ""

    def print_of(self, status: Mapping[str, Any]) -> Print:
        """A cluster's node controller calls the pods of a node that it cannot see not ready."""
        conditions = (c for c in status.get("conditions") or () if c.get("type") in OWN_CONDITIONS)
        return (str(status.get("phase")), *sorted(f"{c['type']}={c.get('status')}" for c in conditions))

    def shown(self, name: Name, uid: str) -> Print | None:
        pod = self._pods.objects.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return None
        return self.print_of(pod.get("status") or {})


def of_node(pod: Mapping[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Return ``said`` without the conditions of readiness gates: their owners are elsewhere, the node only repeats them (pure)."""
    others = gates(pod)
    if not others or not said.get("conditions"):
        return said
    return {**said, "conditions": [c for c in said["conditions"] if c.get("type") not in others]}


def merged(current: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``current`` becomes when a node says ``said`` (pure)."""
    out = {k: v for k, v in current.items() if k not in OWN_FIELDS}
    out |= {k: v for k, v in said.items() if k != "conditions" and (k in OWN_FIELDS or k not in current)}
    conditions = {c["type"]: c for c in current.get("conditions") or ()}
    conditions |= {c["type"]: c for c in said.get("conditions") or ()}
    if conditions:
        out["conditions"] = list(conditions.values())
    return out


def patch_of(current: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the strategic merge patch that says ``said`` and touches nothing of others (pure).

    Conditions merge by type at the server, so that what another writer has just changed is not undone.
    """
    out: dict[str, Any] = dict.fromkeys(OWN_FIELDS)  # None: what the node no longer says goes
    out |= {k: v for k, v in said.items() if k in OWN_FIELDS or k not in current}
    if said.get("conditions"):
        out["conditions"] = [{**NO_LONGER_SAID, **condition} for condition in said["conditions"]]
    for field in MERGED_BY_KEY:
        if out[field]:
            out[field] = [*out[field], {"$patch": "replace"}]
    return out

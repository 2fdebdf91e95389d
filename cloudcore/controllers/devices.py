"""Devices as people see them. Reads Device, DeviceModel, DeviceStatus and the link's sessions.

The only writer of ``Device.status {state, conditions, observedGeneration}``, on change only, and the only maker of
DeviceStatus objects. Conditions come from the edge, which knows; what only the cloud knows overrides them: a node that is
away makes values stale, and a generation that has not arrived is not in sync.
"""

from collections.abc import Mapping
from typing import Any

from cloudcore.controllers.queue import KeyQueue
from cloudcore.hub.scope_devices import device_model, device_node
from cloudcore.hub.sessions import Sessions
from cloudcore.kube.client import JSON_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import Conflict, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DEVICE, DEVICE_STATUS, is_owned_by
from proto.kit.clock import rfc3339

SYNCED, PENDING, STALE = "Synced", "Pending", "Stale"
OVERRIDDEN = (SYNCED, PENDING, STALE)
MESSAGE_PAUSE_S = 5.0  # a message that names moving values must not cost a write per report
WORKERS = 8
Condition = dict[str, str]


class DeviceController:
    """Keeps one DeviceStatus per Device, and each Device's status true."""

    def __init__(self, cluster: Cluster, sessions: Sessions) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._sessions = sessions
        self._clock = cluster.clock
        self._by_node: dict[str, set[Name]] = {}
        self._written_s: dict[Name, float] = {}
        self._later: set[Name] = set()
        self.queue: KeyQueue[Name] = KeyQueue(
            "devices", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        cluster.devices.listen(self._on_device)
        cluster.statuses.listen(self._on_status)
        cluster.models.listen(self._on_model)
        sessions.listen(self._on_session)

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self.queue.run()

    async def run_messages(self) -> None:
        """Write messages that were held back, for ever."""
        while True:
            await self._clock.sleep(MESSAGE_PAUSE_S)
            while self._later:
                self.queue.add(self._later.pop())

    async def ensure_status(self, name: Name) -> dict[str, Any] | None:
        """Return the DeviceStatus of the Device that has ``name`` now, made if need be; None without such a Device."""
        device = self._cluster.devices.objects.get(name)
        if device is None:
            return None
        uid = device["metadata"]["uid"]
        try:
            found = await self._client.get(DEVICE_STATUS, *name)
        except NotFound:
            found = None
        if found is not None and not is_owned_by(found, uid):
            await self._remove(name, found["metadata"]["uid"])  # it belongs to an earlier Device of this name
            found = None
        if found is None:
            try:
                found = await self._client.create(DEVICE_STATUS, name.namespace, new_status(device))
            except Conflict:
                found = await self._client.get(DEVICE_STATUS, *name)
        return found if is_owned_by(found, uid) else None

    async def _remove(self, name: Name, uid: str) -> None:
        try:
            await self._client.delete(DEVICE_STATUS, *name, uid=uid)
        except (NotFound, Conflict):
            return

    def _on_device(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        was, now = device_node(old), device_node(new)
        if was and was != now:
            self._by_node.get(was, set()).discard(name)
        if now:
            self._by_node.setdefault(now, set()).add(name)
        if new is None:
            self._written_s.pop(name, None)
            self._later.discard(name)
        self.queue.add(name)

    def _on_status(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        """Most changes are new values, which a Device's own status does not show."""
        if old is None or new is None or _shown(old) != _shown(new):
            self.queue.add(name)

    def _on_model(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if (old is None) == (new is None):
            return
        for device_name, device in self._cluster.devices.objects.items():
            if device_name.namespace == name.namespace and device_model(device) == name.name:
                self.queue.add(device_name)

    def _on_session(self, node: str) -> None:
        for name in self._by_node.get(node, ()):
            self.queue.add(name)

    async def _reconcile(self, name: Name) -> None:
        device = self._cluster.devices.objects.get(name)
        if device is None or device["metadata"].get("deletionTimestamp"):
            return
        report = self._cluster.statuses.objects.get(name)
        if report is None or not is_owned_by(report, device["metadata"]["uid"]):
            report = await self.ensure_status(name)
        node = device_node(device)
        if node and not self._sessions.is_known(node) and device.get("status"):
            return  # just started: the node may be about to say hello, and then nothing has changed
        wanted = desired_status(
            device,
            (report or {}).get("status") or {},
            connected=not self._sessions.is_away(node),
            model_found=(name.namespace, device_model(device)) in self._cluster.models.objects,
            now=rfc3339(self._clock.wall()),
        )
        await self._put(name, device, wanted)

    async def _put(self, name: Name, device: dict[str, Any], wanted: dict[str, Any]) -> None:
        current = device.get("status") or {}
        subresource = await self._cluster.paths.subresource(DEVICE)
        change = difference(current, wanted, count_generation=bool(subresource))
        if not change:
            return
        if change == "message" and self._clock.now_s() - self._written_s.get(name, 0.0) < MESSAGE_PAUSE_S:
            self._later.add(name)
            return
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": device["metadata"]["uid"]},
            {"op": "add", "path": "/status", "value": {**current, **wanted}},
        ]
        try:
            await self._client.patch(DEVICE, *name, patch, content_type=JSON_PATCH, subresource=subresource)
        except NotFound:
            self._cluster.paths.forget()
            return
        self._written_s[name] = self._clock.now_s()


def new_status(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return an empty DeviceStatus owned by ``device``."""
    metadata = device["metadata"]
    return {
        "apiVersion": DEVICE_STATUS.api_version,
        "kind": DEVICE_STATUS.kind,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "ownerReferences": [
                {
                    "apiVersion": DEVICE.api_version,
                    "kind": DEVICE.kind,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {},
    }


def desired_status(
    device: Mapping[str, Any], report: Mapping[str, Any], *, connected: bool, model_found: bool, now: str
) -> dict[str, Any]:
    """Return what ``Device.status`` should say. Pure; ``now`` dates conditions whose status changes."""
    generation = int(device["metadata"].get("generation") or 0)
    extensions = report.get("extensions")
    observed = extensions.get("observedGeneration") if isinstance(extensions, dict) else None
    observed = observed if isinstance(observed, int) else 0
    found = {c["type"]: c for c in report.get("conditions") or [] if isinstance(c, dict) and "type" in c}
    for condition in _overrides(device, found, (observed, generation), connected=connected, model_found=model_found):
        found[condition["type"]] = condition
    before = {c.get("type"): c for c in (device.get("status") or {}).get("conditions") or []}
    return {
        "state": str(report.get("state") or "unknown") if connected else "unknown",
        "observedGeneration": observed,
        "conditions": [_dated(found[kind], before.get(kind), now) for kind in sorted(found)],
    }


def _overrides(
    device: Mapping[str, Any],
    reported: Mapping[str, Condition],
    generations: tuple[int, int],
    *,
    connected: bool,
    model_found: bool,
) -> list[Condition]:
    node, (observed, generation) = device_node(device), generations
    if not node:
        message = "spec.nodeName is empty: no node has this device"
        return [
            _condition(SYNCED, "False", "NotAssigned", message),
            _condition(PENDING, "True", "NotAssigned", message),
            _condition(STALE, "Unknown", "NotAssigned", message),
        ]
    out: list[Condition] = []
    behind = observed < generation
    if behind:
        missing = f"; DeviceModel {device_model(device)} does not exist" if not model_found else ""
        away = "" if connected else "; that node is not connected (kubectl get nodes)"
        message = (
            f"generation {generation} has not arrived at node {node}, which has {observed or 'none'}{away}{missing}"
        )
        out += [
            _condition(SYNCED, "False", "NotDelivered", message),
            _condition(PENDING, "True", "NotDelivered", message),
        ]
    if not connected:
        message = f"node {node} is not connected: values are the last known ones"
        out.append(_condition(STALE, "True", "NodeNotConnected", message))
        if not behind and reported.get(SYNCED, {}).get("status") != "False":
            out.append(_condition(SYNCED, "Unknown", "NodeNotConnected", message))
    elif STALE not in reported:
        out.append(_condition(STALE, "Unknown", "NeverReported", "the device has not reported yet"))
    return out


def _shown(report: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parts of a DeviceStatus that its Device's status is made of."""
    status = report.get("status") or {}
    owners = report["metadata"].get("ownerReferences")
    return (
        status.get("state"),
        status.get("conditions"),
        status.get("extensions", {}).get("observedGeneration"),
        owners,
    )


def _condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _dated(condition: Condition, before: Mapping[str, str] | None, now: str) -> Condition:
    same = before is not None and before.get("status") == condition["status"]
    since = before.get("lastTransitionTime") if before is not None and same else None
    return {**condition, "lastTransitionTime": since or now}


def difference(current: Mapping[str, Any], wanted: Mapping[str, Any], *, count_generation: bool) -> str:
    """Return "" when nothing is to be written, "message" when only texts differ, else "status".

    Without a status subresource every write makes a new generation, so ``observedGeneration`` alone is no reason for one.
    """
    if current.get("state") != wanted["state"]:
        return "status"
    if count_generation and current.get("observedGeneration") != wanted["observedGeneration"]:
        return "status"
    have = [_essence(c) for c in current.get("conditions") or []]
    want = [_essence(c) for c in wanted["conditions"]]
    if [c[:3] for c in have] != [c[:3] for c in want]:
        return "status"
    if have == want or not count_generation:
        return ""
    return "message"


def _essence(condition: Mapping[str, str]) -> tuple[str, str, str, str]:
    get = condition.get
    return (get("type", ""), get("status", ""), get("reason", ""), get("message", ""))

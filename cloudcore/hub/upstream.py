"""Statuses from the edges to the API. The only writer of ``DeviceStatus.status``; Node statuses go to the node controller.

Every write carries the uid of the object it is meant for: a device deleted and made again inherits nothing.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from cloudcore.hub.scope import Scope
from cloudcore.hub.writes import CoalescedWrites
from cloudcore.kube.client import JSON_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, Conflict, Forbidden, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DEVICE_STATUS, DEVICES_GROUP, NODE, is_owned_by
from proto.kit import canonical
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.link.replica import NotSynced, StateChange
from proto.names import parse_key

DIGEST_BYTES = 16
ATTEMPTS = 3  # the object may be replaced under our hands once, and once more by its controller
log = Logger("upstream")


class StatusBody(msgspec.Struct, frozen=True):
    """What an edge says about one object. ``uid`` is the Device's, "" for the Node."""

    uid: str
    version: int  # an edge counter; grows at each change
    status: dict[str, Any]


class Applied(NamedTuple):
    """What was last applied for one key in the node's session."""

    uid: str
    version: int
    digest: bytes


class _Write(NamedTuple):
    node: str
    body: StatusBody
    digest: bytes


EnsureStatus = Callable[[Name], Awaitable[dict[str, Any] | None]]
PutNodeStatus = Callable[[str, dict[str, Any]], Awaitable[None]]
_decoder = msgspec.json.Decoder(StatusBody)


class Upstream:
    """Applies what edges report. ``ensure_status`` and ``put_node_status`` belong to the controllers."""

    def __init__(
        self,
        cluster: Cluster,
        scope: Scope,
        *,
        ensure_status: EnsureStatus,
        put_node_status: PutNodeStatus,
        writers: int,
    ) -> None:
        self._client, self._paths, self._scope = cluster.client, cluster.paths, scope
        self._devices, self._statuses = cluster.devices, cluster.statuses
        self._ensure_status, self._put_node_status = ensure_status, put_node_status
        metrics = cluster.metrics
        self._applied: dict[str, dict[str, Applied]] = defaultdict(dict)
        self._writes: CoalescedWrites[_Write] = CoalescedWrites(
            self._write, workers=writers, clock=cluster.clock, rng=cluster.rng
        )
        self._dropped = metrics.counter(
            "skerry_cloud_status_dropped_total", "Statuses from edges that were not applied, by reason", ("reason",)
        )
        self._written = metrics.counter("skerry_cloud_status_writes_total", "Statuses written to the API server")
        self._received = metrics.counter("skerry_cloud_status_received_total", "Statuses received from edges")
        metrics.gauge(
            "skerry_cloud_status_waiting", "Statuses waiting for the API server", source=lambda: len(self._writes)
        )

    @property
    def waiting(self) -> int:
        """How many statuses are not yet written."""
        return len(self._writes)

    async def run(self) -> None:
        await self._writes.run()

    def session_started(self, node: str) -> None:
        """Forget version order: a node whose disk was wiped counts from one again."""
        known = self._applied.get(node)
        if known:
            self._applied[node] = {key: found._replace(version=-1) for key, found in known.items()}

    def digests(self, node: str) -> Mapping[str, bytes]:
        """Return key -> digest of the bodies last applied from ``node``; after a restart nothing is known."""
        return {key: found.digest for key, found in self._applied.get(node, {}).items()}

    async def apply(self, node: str, changes: Sequence[StateChange]) -> None:
        """Return once each status is written or dropped and counted. Raises Retryable."""
        if not self._scope.synced:
            raise NotSynced("the first list of the API server is not complete yet")
        waiting = []
        for change in changes:
            self._received.inc()
            write = self._accept(node, change)
            if write is not None:
                waiting.append(self._writes.put(change.key, write))
        if not waiting:
            return
        await asyncio.wait(waiting)
        for future in waiting:
            future.result()

    def _accept(self, node: str, change: StateChange) -> _Write | None:
        if change.body is None:  # the owner reference takes the object away
            self._applied[node].pop(change.key, None)
            return None
        try:
            key = parse_key(change.key)
            body = _decoder.decode(change.body)
        except (*canonical.UNREADABLE, MalformedMessage):
            self._drop("malformed", node, change.key)
            return None
        if not self._is_its_own(node, key.group, key.plural, Name(key.namespace, key.name)):
            self._drop("not-this-node", node, change.key)
            return None
        done = self._applied[node].get(change.key)
        if done is not None and done.uid == body.uid and done.version >= body.version:
            return None
        digest = hashlib.sha256(change.body).digest()[:DIGEST_BYTES]
        return _Write(node, body, digest)

    def _is_its_own(self, node: str, group: str, plural: str, name: Name) -> bool:
        if (group, plural) == (NODE.group, NODE.plural):
            return name.name == node
        return (group, plural) == (DEVICES_GROUP, DEVICE_STATUS.plural) and self._scope.owns_device(node, name)

    def _drop(self, reason: str, node: str, key: str) -> None:
        self._dropped.inc(reason)
        log.debug("status dropped", reason=reason, node=node, key=key[:200])

    async def _write(self, key: str, write: _Write) -> None:
        parsed = parse_key(key)
        try:
            if parsed.plural == NODE.plural:
                await self._put_node_status(write.node, write.body.status)
            elif not await self._write_device(write.node, Name(parsed.namespace, parsed.name), write.body):
                return
        except Forbidden as error:
            # Not remembered as applied: the next comparison of digests brings it again, when rights may be in order.
            self._drop("forbidden", write.node, key)
            log.warning("the API server forbids a status", key=key, reason=error)
            return
        except ApiRefused as error:
            self._drop("refused", write.node, key)
            log.warning("the API server refuses a status", key=key, reason=error)
        else:
            self._written.inc()
        # A refused body counts as applied: it would be refused again, and the edge would send it for ever.
        self._applied[write.node][key] = Applied(write.body.uid, write.body.version, write.digest)

    async def _write_device(self, node: str, name: Name, body: StatusBody) -> bool:
        """Write one DeviceStatus; False when it was dropped."""
        key = DEVICE_STATUS.key(*name)
        for attempt in range(ATTEMPTS):
            device = self._devices.objects.get(name)
            if device is None or device["metadata"]["uid"] != body.uid:
                self._drop("wrong-uid", node, key)
                return False
            target = self._statuses.objects.get(name) if attempt == 0 else None
            if target is None or not is_owned_by(target, body.uid):
                target = await self._ensure_status(name)
            if target is None:
                self._drop("wrong-uid", node, key)
                return False
            # Only before our first write is the informer sure to show what the API holds.
            if key not in self._applied[node] and target.get("status") == body.status:
                return True
            try:
                await self._patch(name, target["metadata"]["uid"], body.status)
            except (NotFound, Conflict):
                self._paths.forget()
            except ApiRefused as error:
                if error.status != 422 or attempt == ATTEMPTS - 1:  # 422 is also what a failed uid test gets
                    raise
            else:
                return True
        raise Conflict(409, "Conflict", f"{key} was replaced {ATTEMPTS} times while it was written")

    async def _patch(self, name: Name, uid: str, status: dict[str, Any]) -> None:
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        subresource = await self._paths.subresource(DEVICE_STATUS)
        await self._client.patch(DEVICE_STATUS, *name, patch, content_type=JSON_PATCH, subresource=subresource)

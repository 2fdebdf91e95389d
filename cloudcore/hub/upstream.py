"""Statuses from the edges to the API: the newest of each object, in the order of the edge's own versions.

What is written how, and who may say it, is in ``status_writers``.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cloudcore.hub.scope import Scope
from cloudcore.hub.status_writers import NOT_THIS_NODE, Print, StatusBody, StatusWriter
from cloudcore.hub.writes import CoalescedWrites
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, Forbidden
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import Kind
from proto.kit import canonical
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.link.replica import NotSynced, StateChange
from proto.names import parse_key

DIGEST_BYTES = 16
log = Logger("upstream")


class Applied(NamedTuple):
    """What was last applied for one key in the node's session."""

    uid: str
    version: int
    digest: bytes
    mark: Print  # what the API should still show of it


class _Write(NamedTuple):
    node: str
    body: StatusBody
    digest: bytes


_decoder = msgspec.json.Decoder(StatusBody)


class Upstream:
    """Applies what edges report about the ``kinds``."""

    def __init__(self, cluster: Cluster, scope: Scope, kinds: Mapping[Kind, StatusWriter], *, workers: int) -> None:
        self._scope = scope
        self._writers = {(kind.group, kind.plural): writer for kind, writer in kinds.items()}
        metrics = cluster.metrics
        self._applied: dict[str, dict[str, Applied]] = defaultdict(dict)
        self._writes: CoalescedWrites[_Write] = CoalescedWrites(
            self._write, workers=workers, clock=cluster.clock, rng=cluster.rng
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
        """Return key -> digest of the bodies last applied from ``node``; after a restart nothing is known.

        What somebody else has overwritten since is not among them, so that the node says it again.
        """
        known = self._applied.get(node, {})
        for key in [key for key, found in known.items() if not self._is_shown(key, found)]:
            del known[key]
        return {key: found.digest for key, found in known.items()}

    def _is_shown(self, key: str, found: Applied) -> bool:
        if key in self._writes:
            return True  # it is being written just now
        parsed = parse_key(key)
        shown = self._writers[parsed.group, parsed.plural].shown(Name(parsed.namespace, parsed.name), found.uid)
        return shown == found.mark

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
        writer = self._writers.get((key.group, key.plural))
        if writer is None or not writer.owns(node, Name(key.namespace, key.name)):
            self._drop(NOT_THIS_NODE, node, change.key)
            return None
        done = self._applied[node].get(change.key)
        if done is not None and done.uid == body.uid and done.version >= body.version:
            return None
        digest = hashlib.sha256(change.body).digest()[:DIGEST_BYTES]
        return _Write(node, body, digest)

    def _drop(self, reason: str, node: str, key: str) -> None:
        self._dropped.inc(reason)
        log.debug("status dropped", reason=reason, node=node, key=key[:200])

    async def _write(self, key: str, write: _Write) -> None:
        parsed = parse_key(key)
        writer, name = self._writers[parsed.group, parsed.plural], Name(parsed.namespace, parsed.name)
        try:
            dropped = await writer.write(write.node, name, write.body, first=key not in self._applied[write.node])
            if dropped:
                self._drop(dropped, write.node, key)
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
        self._applied[write.node][key] = Applied(
            write.body.uid, write.body.version, write.digest, writer.print_of(write.body.status)
        )

"""PORT CloudReplica: what the link reads from the API and applies to API and history."""

from collections.abc import Callable, Mapping, Sequence

from cloudcore.history import EFFECTS, Backlogged, History
from cloudcore.hub.effects import Effects
from cloudcore.hub.scope import Scope
from cloudcore.hub.sessions import Sessions
from cloudcore.hub.upstream import Upstream
from cloudcore.kube.resources import NODE
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange

log = Logger("hub")
RenewLease = Callable[[str], None]


class Replica:
    """The cloud's half of every link, composed of the hub's rooms."""

    def __init__(
        self,
        scope: Scope,
        upstream: Upstream,
        history: History,
        sessions: Sessions,
        effects: Effects,
        *,
        renew_lease: RenewLease,
        metrics: Metrics,
    ) -> None:
        self._scope, self._upstream, self._history = scope, upstream, history
        self._sessions, self._effects = sessions, effects
        self._renew_lease = renew_lease
        self.backlogged: dict[str, str] = {}  # node whose messages are not taken now -> why
        self._fenced = metrics.counter("skerry_cloud_nodes_fenced_total", "Copies of nodes that were refused")

    def wanted(self, node: str) -> Mapping[str, bytes]:
        return self._scope.wanted(node)

    def body(self, node: str, key: str) -> bytes | None:
        return self._scope.body(node, key)

    def status_digests(self, node: str) -> Mapping[str, bytes]:
        return self._upstream.digests(node)

    async def apply_statuses(self, node: str, changes: Sequence[StateChange]) -> None:
        await self._upstream.apply(node, changes)

    async def apply_messages(self, node: str, incarnation: str, rows: Sequence[MessageRow]) -> None:
        try:
            new = await self._history.apply(node, incarnation, rows)
        except Backlogged as error:
            self._defer(node, rows, str(error))
            raise  # the link acknowledges nothing, and tries again
        if self.backlogged.pop(node, None) is not None:
            log.info("messages of a node are taken again", node=node)
        kinds = {row.kind for row in new}
        if kinds & EFFECTS:
            self._effects.wake()
        if "lease" in kinds:
            self._renew_lease(node)

    def _defer(self, node: str, rows: Sequence[MessageRow], reason: str) -> None:
        if any(row.kind == "lease" for row in rows):
            self._renew_lease(node)  # it lives, whatever waits
        if node not in self.backlogged:  # said once, until they are taken again
            log.warning("messages of a node are not taken now", node=node, reason=reason)
            involved = {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": node, "uid": node}
            session = self._sessions.get(node)  # one Event for all times in one session
            name = f"{node}.backlog-{session.epoch if session else 0:x}"
            self._effects.tell("Warning", involved, "MessagesDeferred", reason, name=name)
        self.backlogged[node] = reason

    async def connected(self, node: str, epoch: int) -> None:
        self._upstream.session_started(node)
        self._sessions.connected(node, epoch)

    async def lost(self, node: str, epoch: int) -> None:
        self.backlogged.pop(node, None)  # nothing is refused to a node that is away
        self._sessions.lost(node, epoch)

    async def fenced(self, node: str, reason: str) -> None:
        self._fenced.inc()
        log.warning("a copy of a node was refused", node=node, reason=reason)
        involved = {"apiVersion": "v1", "kind": NODE.kind, "name": node}
        session = self._sessions.get(node)
        name = f"{node}.fenced-{session.epoch if session else 0:x}"
        self._effects.tell("Warning", involved, "NodeFenced", reason, name=name)

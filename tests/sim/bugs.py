"""Planted bugs: each is one thing that somebody could get wrong, put in by a subclass. The checkers must catch every one."""

from collections.abc import Mapping, Sequence
from typing import Any

from proto.exchange import Exchange
from proto.frames import Ack, Frame, Lane, Messages, Ping, Presence, Refused, Welcome
from proto.kit import canonical
from proto.kit.database import Tx
from proto.link import inbox, sqlite_log
from proto.link.log import NodeRecord
from proto.link.outbox import Outbox
from proto.link.replica import MessageRow, StateChange
from proto.order import Order
from proto.session import Deliver, Effect, Ended, Fenced, judge
from proto.session_cloud import CloudSession
from proto.session_edge import EdgeSession
from proto.window import Flight, Window
from tests.sim.cloud import SimCloud
from tests.sim.scenario import Scenario
from tests.sim.world import Weather

# the edge


class EdgeAcksBeforeCommit(EdgeSession):
    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        effects = super().receive(frame, now_s)
        for effect in effects:
            if isinstance(effect, Deliver) and self.exchange is not None:
                self.exchange.committed(effect.state_seq, effect.messages)
        return [*effects, *self._pump(now_s)]


class AcceptsAnyEpoch(EdgeSession):
    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        if self.exchange is not None and frame.epoch and not isinstance(frame.body, Welcome | Refused):
            frame = Frame(self.exchange.epoch, frame.body, frame.acks, self.exchange.tag)
        return super().receive(frame, now_s)


class StatusesNeverCompared(EdgeSession):
    def _compare(self, root: bytes, now_s: float) -> list[Effect]:
        return []


class NeverNoticesSilence(EdgeSession):
    def tick(self, now_s: float) -> list[Effect]:
        self._heard_s = now_s
        return super().tick(now_s)


class IgnoresFencing(EdgeSession):
    def _refused(self, epoch: int, refused: Refused, now_s: float) -> list[Effect]:
        return []


class OutboxDropsNewerState(Outbox):
    def settle(self, tx: Tx, states: Sequence[tuple[str, int]], mark: int) -> bool:
        for key, _ in states:
            tx.execute("DELETE FROM link_state WHERE key = ?", (key,))
        return super().settle(tx, states, mark)


class OutboxForgetsWhenSent(Outbox):
    """Rows are forgotten when they are sent, not when they are acknowledged."""

    def next_messages(self, max_rows: int, max_bytes: int) -> Messages | None:
        batch = super().next_messages(max_rows, max_bytes)
        if batch is not None:
            found: Any = self._read(lambda conn: conn.execute("DELETE FROM link_message WHERE seq <= ?", (batch.end,)))
            del found
        return batch


class OutboxReusesNumbers(Outbox):
    """After everything was acknowledged, numbering begins again."""

    def settle(self, tx: Tx, states: Sequence[tuple[str, int]], mark: int) -> bool:
        left = super().settle(tx, states, mark)
        if mark and tx.execute("SELECT 1 FROM link_message").fetchone() is None:
            tx.execute("UPDATE link_lane SET last = 0")
        return left


class OutboxDropsSilently(Outbox):
    """Over quota, old rows vanish without a gap row."""

    def _replace(self, tx: Tx, first: int, last: int, reason: str) -> int:
        tx.execute("DELETE FROM link_message WHERE seq BETWEEN ? AND ?", (first, last))
        tx.execute("UPDATE link_message SET prev = ? WHERE seq = ?", (first - 1, last + 1))
        return 0


class OutboxForgetsStatesAtBoot(Outbox):
    """Waiting statuses are dirty in memory only."""

    def rewind(self, mark: int) -> None:
        waiting = self.dirty
        super().rewind(mark)
        self.dirty = waiting


# the cloud


class CloudAcksBeforeCommit(CloudSession):
    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        effects = super().receive(frame, now_s)
        for effect in effects:
            if isinstance(effect, Deliver) and self.exchange is not None:
                self.exchange.committed(effect.state_seq, effect.messages)
        return [*effects, *self._pump(now_s)]


class StaleWillEndsSession(CloudSession):
    """Any offline presence ends the present session: a late will of an old connection, too."""

    def presence(self, presence: Presence, now_s: float) -> list[Effect]:
        if not presence.online:
            presence = Presence(False, self.connection, presence.epoch)
        effects = super().presence(presence, now_s)
        self.ended_by_will = any(isinstance(effect, Ended) for effect in effects)
        return effects


class CloudAcceptsOldEpochs(CloudSession):
    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        if frame.epoch and self.exchange is not None:
            frame = Frame(self.epoch, frame.body, frame.acks, self.tag)
        return super().receive(frame, now_s)


class NoComparisonAtHello(CloudSession):
    def confirmed(self, epoch: int, now_s: float) -> list[Effect]:
        if self._hello is not None:
            object.__setattr__(self, "_hello", _with_root(self._hello, self.feed))
        return super().confirmed(epoch, now_s)

    def _live(self, frame: Frame, now_s: float) -> list[Effect]:
        if isinstance(frame.body, Ping):
            frame = Frame(frame.epoch, Ping(), frame.acks, frame.tag)
        return super()._live(frame, now_s)


def _with_root(hello: Any, feed: Any) -> Any:
    from msgspec.structs import replace

    from proto import digest

    wanted = feed.expected()
    return replace(hello, held=digest.root(wanted if wanted is not None else {}))


class FencedKillsLive(CloudSession):
    """The refused hello of a copy also ends the session of the right machine, for good."""

    def fenced(self, hello: Any, text: str) -> list[Effect]:
        effects = super().fenced(hello, text)
        return [*effects, *self.end("fenced")]


# scenarios that put them in


def _edge(session: type[EdgeSession]) -> type[Scenario]:
    return type(session.__name__, (Scenario,), {"make_edge_session": session})


def _outbox(outbox: type[Outbox], **more: Any) -> type[Scenario]:
    return type(outbox.__name__, (Scenario,), {"make_outbox": outbox, **more})


def _cloud(session: type[CloudSession]) -> type[Scenario]:
    return type(session.__name__, (Scenario,), {"make_cloud_session": session})


class DedupInMemory(Scenario):
    """The cloud remembers what it applied in RAM: after a crash it applies again."""

    def mark(self, tx: Tx, node: str, incarnation: str) -> int:
        return self._ram(self.cloud).get((node, incarnation), 0)

    def _ram(self, cloud: SimCloud) -> dict[tuple[str, str], int]:
        memory: dict[tuple[str, str], int] = cloud.store.__dict__.setdefault("ram", {})
        return memory

    def store_messages(
        self, cloud: SimCloud, tx: Tx, node: str, edge: str, epoch: int, rows: Sequence[MessageRow]
    ) -> None:
        memory = self._ram(cloud)
        for row in rows:
            if row.seq > memory.get((node, edge), 0):
                memory[(node, edge)] = row.seq
                cloud._insert(tx, node, edge, epoch, row)


class MarkOfNodeOnly(Scenario):
    """The mark is kept for the node, not for (node, incarnation): a joined-again edge starts in the middle."""

    def mark(self, tx: Tx, node: str, incarnation: str) -> int:
        return super().mark(tx, node, "any")

    def store_messages(
        self, cloud: SimCloud, tx: Tx, node: str, edge: str, epoch: int, rows: Sequence[MessageRow]
    ) -> None:
        mark = sqlite_log.mark(tx, node, "any")
        for row in rows:
            if row.seq > mark:
                cloud._insert(tx, node, edge, epoch, row)
                sqlite_log.advance(tx, node, "any", row.seq)


class MarkInItsOwnTransaction(Scenario):
    """Rows and mark commit separately, the mark first."""

    def store_messages(
        self, cloud: SimCloud, tx: Tx, node: str, edge: str, epoch: int, rows: Sequence[MessageRow]
    ) -> None:
        mark = sqlite_log.mark(tx, node, edge)
        sqlite_log.advance(tx, node, edge, max(mark, rows[-1].seq))

        def later(after: Tx) -> None:
            for row in rows:
                if row.seq > mark:
                    cloud._insert(after, node, edge, epoch, row)

        cloud.store.submit(later)


class WallClockWins(Scenario):
    """The status with the later wall clock wins."""

    def may_replace(self, old: bytes | None, change: StateChange) -> bool:
        if old is None or change.body is None:
            return True
        before, after = canonical.decode(old), canonical.decode(change.body)
        return bool(before["status"]["at"] < after["status"]["at"])


class StatusesUnchecked(Scenario):
    """A status is written whatever its version: an old copy may come late."""

    def may_replace(self, old: bytes | None, change: StateChange) -> bool:
        return True


class CopyAccepted(Scenario):
    """Every hello gets a session, whatever epoch the disk holds."""

    def judge(self, record: NodeRecord, hello: Any, cloud: str) -> NodeRecord:
        try:
            return judge(record, hello, cloud)
        except Fenced:
            return NodeRecord(hello.incarnation, cloud, max(record.granted, hello.epoch) + 1, record.acked)


class EpochNotDurable(Scenario):
    """The edge uses the granted epoch without committing it."""

    def adopt(self, tx: Tx, epoch: int, welcome: Welcome) -> None:
        held = inbox.identity(tx)
        inbox.adopt(tx, held.epoch, welcome)


class ConfirmForgotten(Scenario):
    """The cloud never records that the edge holds an epoch."""

    def confirm(self, record: NodeRecord, incarnation: str, epoch: int) -> NodeRecord:
        return record

    def judge(self, record: NodeRecord, hello: Any, cloud: str) -> NodeRecord:
        after = judge(record, hello, cloud)
        return NodeRecord(after.incarnation, after.cloud, after.granted, 0)


class EdgeMarkInMemory(Scenario):
    """Commands are applied again after a crash: their mark is not in the transaction."""

    def edge_apply(self, tx: Tx, replica: Any, batch: list[Deliver]) -> None:
        changes = [change for deliver in batch for change in deliver.changes]
        if changes:
            replica.apply(tx, changes)
        for deliver in batch:
            for messages in deliver.messages:
                replica.apply_messages(tx, messages.rows)


class RestoreKeepsIncarnation(Scenario):
    """A restored cloud goes on under its old incarnation."""

    def renew(self, tx: Tx) -> None:
        return None

    def _plan_faults(self) -> None:
        super()._plan_faults()
        self.world.at(4.0, self.cloud.save)
        self.world.at(9.0, self._restore)


class DeleteBeforeSynced(Scenario):
    """While informers list, what is not there yet counts as deleted."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        cloud, wanted = self.cloud, self.cloud.wanted

        def eager(node: str) -> Mapping[str, bytes]:
            return wanted(node) if cloud.synced else {}

        cloud.wanted = eager  # type: ignore[method-assign]


class TombstoneDropped(Scenario):
    """Deletions are not applied on the edge."""

    def edge_apply(self, tx: Tx, replica: Any, batch: list[Deliver]) -> None:
        kept = [Deliver(d.epoch, d.state_seq, [c for c in d.changes if c.body is not None], d.messages) for d in batch]
        super().edge_apply(tx, replica, kept)


class Patched(Scenario):
    """Replaces functions of the product while one seed runs."""

    patches: Sequence[tuple[type, str, Any]] = ()

    def run(self) -> list[str]:
        saved = [(owner, name, getattr(owner, name)) for owner, name, _ in self.patches]
        for owner, name, fn in self.patches:
            setattr(owner, name, fn)
        try:
            return super().run()
        finally:
            for owner, name, fn in saved:
                setattr(owner, name, fn)


def _skip_gap(self: Order[Any], lineage: str, prev: int, end: int, batch: Any) -> Any:
    at = self.received.get(lineage, 0)
    if end <= at:
        return None
    self.received[lineage] = end
    return [(at, batch)]


class GapSkipped(Patched):
    """A batch is taken although the one before it is missing."""

    patches = ((Order, "offer", _skip_gap),)


def _no_dedup(self: Order[Any], lineage: str, prev: int, end: int, batch: Any) -> Any:
    self.received[lineage] = max(end, self.received.get(lineage, 0))
    return [(prev, batch)]


class LateStatesApplied(Patched):
    """A frame that came twice, or late, is applied again."""

    patches = ((Order, "offer", _no_dedup),)


def _ack_received(self: Exchange) -> tuple[Ack, ...]:
    """Acknowledge the newest that was seen, over a hole."""
    if not self._owed:
        return ()
    acks = []
    for lane, lineage in self._owed:
        order: Order[Any] = self.states_in if lane is Lane.STATE else self.messages_in
        early = [end for (lin, _), (end, _) in order._early.items() if lin == lineage]
        acks.append(Ack(lane, max([self._committed.get((lane, lineage), 0), *early]), lineage))
    self._owed.clear()
    return tuple(acks)


class AckOverAHole(Patched):
    """The cumulative acknowledgement covers a batch that is missing."""

    patches = ((Exchange, "_acks", _ack_received),)

    def _plan_faults(self) -> None:
        super()._plan_faults()
        self.net.weather = Weather(lose=0.3, slow=0.2, reorder=True)


def _never(self: Window, now_s: float) -> list[Flight]:
    return []


class NeverResends(Patched):
    """A lost frame is never sent again within a session."""

    patches = ((Window, "resend", _never),)


def _leaky(self: Window, flight: Flight, now_s: float) -> None:
    _add(self, flight, now_s)
    self.in_flight_frames += 63


_add = Window.add


class WindowLeaks(Patched):
    """Acknowledged frames never leave the window."""

    patches = ((Window, "add", _leaky),)


def _no_reack(self: Exchange, lane: Lane, lineage: str) -> None:
    return None


class DuplicatesNotAcknowledged(Patched):
    """When an acknowledgement is lost, the resend is not acknowledged again."""

    patches = ((Exchange, "_owe_again", _no_reack),)


class QuotaScenario(Scenario):
    """A tiny quota, so that the declared policy drops."""

    settings = Scenario.settings.__class__(
        **{name: getattr(Scenario.settings, name) for name in Scenario.settings.__struct_fields__}
        | {"message_quota_bytes": 450}
    )

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.declared = {"bytes"}


BUGS: dict[str, type[Scenario]] = {
    cls.__name__: cls
    for cls in (
        _edge(EdgeAcksBeforeCommit),
        _edge(AcceptsAnyEpoch),
        _edge(StatusesNeverCompared),
        _edge(NeverNoticesSilence),
        _edge(IgnoresFencing),
        _outbox(OutboxDropsNewerState, make_edge_session=StatusesNeverCompared),
        _outbox(OutboxForgetsWhenSent),
        _outbox(OutboxReusesNumbers),
        _outbox(OutboxDropsSilently, settings=QuotaScenario.settings, declared={"bytes"}),
        _outbox(OutboxForgetsStatesAtBoot, make_edge_session=StatusesNeverCompared),
        _cloud(CloudAcksBeforeCommit),
        _cloud(StaleWillEndsSession),
        _cloud(CloudAcceptsOldEpochs),
        _cloud(NoComparisonAtHello),
        DedupInMemory,
        MarkOfNodeOnly,
        MarkInItsOwnTransaction,
        WallClockWins,
        CopyAccepted,
        EpochNotDurable,
        ConfirmForgotten,
        EdgeMarkInMemory,
        RestoreKeepsIncarnation,
        DeleteBeforeSynced,
        TombstoneDropped,
        GapSkipped,
        LateStatesApplied,
        AckOverAHole,
        NeverResends,
        WindowLeaks,
        DuplicatesNotAcknowledged,
    )
}

"""Checkers over a finished world: I1 loss, I2 twice, I3 order, I4 convergence, I5 versions, I10 one writer."""

from itertools import pairwise
from typing import TYPE_CHECKING

from proto import gap
from proto.frames import GAP, States
from proto.kit import canonical
from proto.kit.database import Tx
from proto.link.replica import StateChange
from proto.session import CloudState, Deliver, EdgeState, Effect, Ended

if TYPE_CHECKING:
    from tests.sim.edge import SimEdge
    from tests.sim.scenario import Scenario


class Checks:
    """Collects violations, each with its invariant first."""

    def __init__(self, scenario: "Scenario") -> None:
        self.scenario = scenario
        self.violations: list[str] = []
        self.commands: dict[str, list[bytes]] = {}  # committed by the cloud's present disk
        self._newest: dict[tuple[str, str], int] = {}  # (machine, key) -> least revision that may be applied next
        self._epochs: dict[str, int] = {}

    def fail(self, text: str) -> None:
        self.violations.append(text)
        self.scenario.world.note(f"VIOLATION {text}")

    # while the world runs

    def edge_applied(self, edge: "SimEdge", tx: Tx, change: StateChange) -> None:
        del tx
        key = (edge.tag, change.key)
        least = self._newest.get(key, 0)
        if change.body is None:
            self._newest[key] = max(least, self.scenario.deleted_at.get((edge.node, change.key), 0))
            return
        revision = canonical.decode(change.body)["spec"]["rev"]
        if revision < least:
            self.fail(f"I5 {edge.tag} applied {change.key} revision {revision} after {least}")
        self._newest[key] = revision

    def effect(self, node: str, epoch: int) -> None:
        """Something of ``epoch`` took effect in the cloud."""
        if epoch < self._epochs.get(node, 0):
            self.fail(f"I10 {node}: session {epoch} had effect after session {self._epochs[node]}")
        self._epochs[node] = max(epoch, self._epochs.get(node, 0))

    def cloud_sent(self, node: str, body: object) -> None:
        """The cloud sends: no delete may leave it while its informers list."""
        if isinstance(body, States) and not self.scenario.cloud.synced:
            for change in body.changes:
                if change.body is None and change.key in self.scenario.cloud.api.objects.get(node, {}):
                    self.fail(f"I4 {node} was told to delete {change.key} while informers were listing")

    def frame_taken(self, who: str, epoch: int, effects: list[Effect]) -> None:
        """A frame of session ``epoch`` was taken: it may have effect only in that session."""
        for effect in effects:
            if isinstance(effect, Deliver) and effect.epoch != epoch:
                self.fail(f"I10 {who}: a frame of session {epoch} had effect in session {effect.epoch}")

    def session_ended(self, node: str, connection: int, ended: Ended) -> None:
        """The cloud ended a session because a will said so: its own connection must really be gone."""
        for edge in self.scenario.edges:
            if edge.node == node and edge.running and edge.session is not None and edge.wire is not None:
                mine = edge.session.connection == connection and edge.wire.alive and not edge.wire.half_open
                if mine and ended.reason == "connection lost":
                    self.fail(f"I10 {node}: a late will ended the live session {ended.epoch}")

    def status_written(self, node: str, key: str, old: bytes | None, new: bytes) -> None:
        if old is None:
            return
        before, after = canonical.decode(old), canonical.decode(new)
        if before["uid"] == after["uid"] and after["version"] < before["version"]:
            self.fail(f"I5 {node}: status {key} went from version {before['version']} to {after['version']}")

    # at the end

    def converged(self) -> bool:
        return not any(self._unsettled(edge) for edge in self.scenario.living())

    def finish(self) -> list[str]:
        for edge in self.scenario.living():
            reason = self._unsettled(edge)
            if reason:
                self.fail(f"I4 {edge.tag}: {reason}")
        for edge in self.scenario.edges:
            self._history(edge)
            self._commands(edge)
        self._copies()
        self._all_commands()
        return self.violations

    def _unsettled(self, edge: "SimEdge") -> str:
        cloud = self.scenario.cloud
        if not edge.running or edge.session is None or edge.session.state is not EdgeState.LIVE:
            state = edge.session.state.value if edge.session is not None else "off"
            return f"not live: {state} {edge.session.fenced_text if edge.session else ''}"
        peer = cloud.peers.get(edge.node) if cloud.running else None
        if (
            peer is None
            or peer.session.state is not CloudState.LIVE
            or peer.session.epoch != edge.session.identity.epoch
        ):
            return "the cloud has no session with it"
        if edge.held_bodies() != cloud.api.objects.get(edge.node, {}):
            return "holds other objects than the API"
        mine = dict(edge.replica.statuses())
        if (
            not self.scenario.is_copied(edge)
            and {k: v for k, v in cloud.api.statuses.get(edge.node, {}).items() if k in mine} != mine
        ):
            return "the API has other statuses than the edge"
        pending = edge.outbox.pending()
        if pending.states or pending.messages:
            return f"{pending.states} statuses and {pending.messages} messages still wait"
        (waiting,) = cloud.conn.execute("SELECT count(*) FROM log_row WHERE node = ?", (edge.node,)).fetchone()
        return f"{waiting} commands still wait" if waiting else ""

    def _history(self, edge: "SimEdge") -> None:
        rows = self.scenario.cloud.conn.execute(
            "SELECT seq, kind, body FROM t_history WHERE node = ? AND incarnation = ? ORDER BY n",
            (edge.node, edge.incarnation()),
        ).fetchall()
        ledger = dict(edge.conn.execute("SELECT seq, body FROM t_ledger").fetchall())
        at = 0
        copied = self.scenario.is_copied(edge)
        for seq, kind, body in rows:
            first = gap.decode(body).first if kind == GAP else seq
            if seq <= at or first <= at:
                self.fail(f"I2 {edge.tag}: message {first}..{seq} applied after {at}")
            elif first != at + 1:
                self.fail(f"I3 {edge.tag}: messages {at + 1}..{first - 1} skipped without a gap row")
            if kind == GAP and not self._excused(gap.decode(body)):
                self.fail(f"I1 {edge.tag}: gap {first}..{seq} though nothing was dropped")
            if kind != GAP and not copied and ledger.get(seq) != body:
                self.fail(f"I2 {edge.tag}: message {seq} is not what the device sent")
            at = max(at, seq)
        newest = max(ledger, default=0)
        if edge in self.scenario.living() and at < newest and not copied:
            self.fail(f"I1 {edge.tag}: {newest - at} messages lost at the end")

    def _excused(self, hole: gap.Gap) -> bool:
        if hole.reason == "restored":
            return self.scenario.cloud.restores > 0
        return hole.reason in self.scenario.declared

    def _commands(self, edge: "SimEdge") -> None:
        got = [row[0] for row in edge.conn.execute("SELECT body FROM t_got ORDER BY n")]
        if len(set(got)) != len(got):
            self.fail(f"I2 {edge.tag}: a command was applied twice")
        order = {body: i for i, body in enumerate(self.commands.get(edge.node, []))}
        places = [order[body] for body in got if body in order]
        if places != sorted(places):
            self.fail(f"I3 {edge.tag}: commands out of order")

    def _all_commands(self) -> None:
        for node, sent in self.commands.items():
            machines = [edge for edge in self.scenario.edges if edge.node == node]
            got = {row[0] for edge in machines for row in edge.conn.execute("SELECT body FROM t_got")}
            lost = [body for body in sent if body not in got]
            if lost and not self.scenario.wiped_or_restored(node):
                self.fail(f"I1 {node}: {len(lost)} commands lost")

    def _copies(self) -> None:
        for node in {edge.node for edge in self.scenario.edges}:
            rows = self.scenario.cloud.conn.execute(
                "SELECT body FROM t_history WHERE node = ? AND kind != 'gap' ORDER BY n", (node,)
            ).fetchall()
            tags = [row[0].split(b":")[0] for row in rows]
            changes = [b for a, b in pairwise(tags) if a != b]
            if len(changes) != len(set(changes)) or (tags and tags[0] in changes):
                self.fail(f"I10 {node}: two machines wrote in turn")
            pair = [edge for edge in self.scenario.edges if edge.node == node and self.scenario.is_copied(edge)]
            if pair and sum(e.session is not None and bool(e.session.fenced_text) for e in pair) != 1:
                self.fail(f"I10 {node}: a copied disk, but not exactly one machine is fenced")

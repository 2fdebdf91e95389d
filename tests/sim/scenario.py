"""One seed: a workload, faults, then fair weather until everything agrees. Seams (``judge``, ``edge_apply`` …) are where planted bugs go in."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from proto import gap
from proto.frames import Welcome
from proto.kit.database import Tx
from proto.link import edge_store, inbox, sqlite_log
from proto.link.log import NodeRecord
from proto.link.outbox import Outbox
from proto.link.replica import MessageRow, StateChange
from proto.link.settings import LinkSettings
from proto.session import Deliver, Settled, confirm, judge
from proto.session_cloud import CloudSession
from proto.session_edge import EdgeSession
from tests.sim.checks import Checks
from tests.sim.cloud import SimCloud, newer
from tests.sim.edge import SimEdge
from tests.sim.world import Net, Weather, World, copy_of

SETTINGS = LinkSettings(
    keep_alive_s=4.0, hello_base_s=0.5, hello_cap_s=2.0, anti_entropy_s=10.0, fenced_retry_s=5.0, reserve_bytes=0
)
STORM_S = 14.0
QUIET_S = 40.0
KEYS = ["devices.kubeedge.io/devices/d/a", "devices.kubeedge.io/devices/d/b", "devices.kubeedge.io/devices/d/c"]
STATUS_KEYS = ["devices.kubeedge.io/devicestatuses/d/a", "core/nodes/-/n"]


class Scenario:
    """A world of one cloud and two nodes."""

    settings = SETTINGS
    make_outbox: Callable[..., Outbox] = Outbox
    make_edge_session: Callable[..., EdgeSession] = EdgeSession
    make_cloud_session: Callable[..., CloudSession] = CloudSession

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.net = Net(self.world)
        self.checks = Checks(self)
        self.declared: set[str] = set()
        self.ended: dict[str, bool] = {}
        self.copied: set[str] = set()
        self.wiped: set[str] = set()
        self.deleted_at: dict[tuple[str, str], int] = {}
        self.cloud = SimCloud(self)
        self.edges = [SimEdge(self, "n1", "n1"), SimEdge(self, "n2", "n2")]
        self.kinds: list[str] = []

    def run(self) -> list[str]:
        """Return the violations of this seed."""
        rng = self.world.rng
        self.cloud.boot()
        for edge in self.edges:
            self.world.at(rng.uniform(0.0, 1.0), edge.boot)
        self._plan_work()
        self._plan_faults()
        self.world.run_until(STORM_S)
        self._calm()
        end = self.world.now + QUIET_S
        while self.world.now < end:
            self.world.run_until(self.world.now + 1.0)
            if self.checks.converged() and self._copies_decided():
                break
        return self.checks.finish()

    def living(self) -> list[SimEdge]:
        """Return the machines that must be in order at the end."""
        return [e for e in self.edges if not self.ended.get(e.tag) and not (self.is_copied(e) and self._is_fenced(e))]

    def is_copied(self, edge: SimEdge) -> bool:
        return edge.node in self.copied and not self.ended.get(edge.tag)

    def wiped_or_restored(self, node: str) -> bool:
        return node in self.wiped or node in self.copied or self.cloud.restores > 0

    # seams

    def judge(self, record: NodeRecord, hello: Any, cloud: str) -> NodeRecord:
        return judge(record, hello, cloud)

    def confirm(self, record: NodeRecord, incarnation: str, epoch: int) -> NodeRecord:
        return confirm(record, incarnation, epoch)

    def mark(self, tx: Tx, node: str, incarnation: str) -> int:
        return sqlite_log.mark(tx, node, incarnation)

    def renew(self, tx: Tx) -> None:
        sqlite_log.renew(tx)

    def adopt(self, tx: Tx, epoch: int, welcome: Welcome) -> None:
        inbox.adopt(tx, epoch, welcome)

    def edge_apply(self, tx: Tx, replica: Any, batch: list[Deliver]) -> None:
        edge_store.apply(tx, replica, batch)

    def edge_settle(self, tx: Tx, outbox: Outbox, settled: list[Settled]) -> None:
        edge_store.settle(tx, outbox, settled)

    def store_messages(
        self, cloud: SimCloud, tx: Tx, node: str, edge: str, epoch: int, rows: Sequence[MessageRow]
    ) -> None:
        mark = sqlite_log.mark(tx, node, edge)
        fresh = gap.clip(rows, mark)
        for row in fresh:
            self.checks.effect(node, epoch)
            cloud._insert(tx, node, edge, epoch, row)
        if fresh:
            sqlite_log.advance(tx, node, edge, fresh[-1].seq)

    def write_status(self, cloud: SimCloud, node: str, change: StateChange, epoch: int) -> None:
        assert change.body is not None
        mine = cloud.api.statuses.setdefault(node, {})
        old = mine.get(change.key)
        if self.may_replace(old, change):
            self.checks.effect(node, epoch)
            self.checks.status_written(node, change.key, old, change.body)
            mine[change.key] = change.body

    def may_replace(self, old: bytes | None, change: StateChange) -> bool:
        return newer(old, change)

    # plan

    def _plan_work(self) -> None:
        rng, world = self.world.rng, self.world
        for _ in range(rng.randint(6, 11)):
            edge, count = rng.choice(self.edges), rng.randint(1, 6)
            world.at(rng.uniform(0.5, STORM_S), partial(edge.put, count))
        for _ in range(rng.randint(5, 8)):
            edge, key = rng.choice(self.edges), rng.choice(STATUS_KEYS)
            at = rng.uniform(0.5, STORM_S)
            for delay in (0.0, 0.01, 0.05)[: rng.randint(1, 3)]:
                world.at(at + delay, partial(edge.report, key))
        for _ in range(rng.randint(5, 9)):
            node, key, gone = rng.choice(["n1", "n2"]), rng.choice(KEYS), rng.random() < 0.3
            world.at(rng.uniform(0.0, STORM_S), partial(self._desire, node, key, gone))
        for _ in range(rng.randint(2, 5)):
            node = rng.choice(["n1", "n2"])
            world.at(rng.uniform(0.5, STORM_S), partial(self.cloud.command, node))

    def _desire(self, node: str, key: str, gone: bool) -> None:
        self.cloud.put(node, key, gone=gone)
        if gone:
            self.deleted_at[(node, key)] = self.cloud.api.revision

    def _plan_faults(self) -> None:
        rng = self.world.rng
        self.net.weather = Weather(
            lose=rng.choice([0.0, 0.0, 0.05, 0.25]),
            double=rng.choice([0.0, 0.1, 0.3]),
            slow=rng.choice([0.0, 0.0, 0.05, 0.2]),
            reorder=rng.random() < 0.4,
        )
        self.world.failpoint_ratio = rng.choice([0.0, 0.0, 0.03, 0.1])
        table: list[tuple[int, Callable[[], None]]] = [
            (4, self._cut),
            (3, self._crash_edge),
            (3, self._crash_cloud),
            (2, self._freeze),
            (2, self._partition),
            (2, self._restart_broker),
            (1, self._jump),
            (1, self._wipe),
            (1, self._copy),
            (1, self._restore),
            (1, self._forget_statuses),
        ]
        actions = [fn for weight, fn in table for _ in range(weight)]
        if rng.random() < 0.15:
            self.world.at(rng.uniform(1.0, 6.0), self.cloud.save)
        for _ in range(rng.randint(2, 5)):
            self.world.at(rng.uniform(1.0, STORM_S), rng.choice(actions))

    def _calm(self) -> None:
        self.net.weather = Weather()
        self.net.cut_off.clear()
        self.world.failpoint_ratio = 0.0
        self.net.up = True
        self.cloud.boot()
        for edge in self.edges:
            if not self.ended.get(edge.tag):
                edge.boot()

    def _copies_decided(self) -> bool:
        return all(
            sum(self._is_fenced(e) for e in self.edges if e.node == node and self.is_copied(e)) == 1
            for node in self.copied
        )

    @staticmethod
    def _is_fenced(edge: SimEdge) -> bool:
        return edge.session is not None and bool(edge.session.fenced_text)

    # faults

    def _cut(self) -> None:
        wires = list(self.net.wires.values())
        if wires:
            self.net.cut(self.world.rng.choice(wires))

    def _freeze(self) -> None:
        wires = list(self.net.wires.values())
        if wires:
            self.net.freeze(self.world.rng.choice(wires))

    def _crash_edge(self) -> None:
        self.world.rng.choice(self.edges).crash()

    def _crash_cloud(self) -> None:
        self.cloud.crash()

    def _partition(self) -> None:
        name = self.world.rng.choice(["n1", "n2", "cloudcore"])
        self.net.cut_off.add(name)
        wire = self.net.wires.get(name)
        if wire is not None:
            self.net.cut(wire)
        self.world.at(self.world.rng.uniform(0.5, 6.0), lambda: self.net.cut_off.discard(name))

    def _restart_broker(self) -> None:
        self.net.stop(forget=self.world.rng.random() < 0.5)
        self.world.at(self.world.rng.uniform(0.2, 2.0), self._broker_back)

    def _broker_back(self) -> None:
        self.net.up = True

    def _jump(self) -> None:
        days = self.world.rng.choice([-10, 10, 3650])
        for edge in self.edges:
            if edge.running:
                edge.clock.skew += timedelta(days=days)

    def _wipe(self) -> None:
        """A machine loses its disk and is joined again under the same name."""
        edge = self.world.rng.choice(self.edges)
        if edge.node in self.copied or self.ended.get(edge.tag):
            return
        self.ended[edge.tag] = True
        edge.crash()
        self.wiped.add(edge.node)
        # new devices, so new uids: nothing of the old disk's statuses is inherited
        fresh = SimEdge(self, edge.node, f"{edge.tag}'")
        self.edges.append(fresh)
        self.world.at(self.world.rng.uniform(0.2, 2.0), fresh.boot)

    def _copy(self) -> None:
        """A second machine starts from a copy of a node's disk."""
        edge = self.world.rng.choice(self.edges)
        if self.copied or self.ended.get(edge.tag) or not edge.incarnation():
            return
        self.copied.add(edge.node)
        twin = SimEdge(self, edge.node, f"{edge.tag}+", copy_of(edge.conn))
        self.edges.append(twin)
        self.world.at(self.world.rng.uniform(0.0, 1.0), twin.boot)

    def _forget_statuses(self) -> None:
        """Somebody deletes status objects in the API; they come back empty."""
        self.cloud.api.statuses.pop(self.world.rng.choice(["n1", "n2"]), None)

    def _restore(self) -> None:
        if self.cloud.backup is not None and not self.copied:
            self.checks.commands.clear()
            self.cloud.restore()


def run(seed: int, scenario: type[Scenario] = Scenario, *, trace: list[str] | None = None) -> list[str]:
    """Run one seed and return its violations; empty means clean."""
    world = scenario(seed)
    world.world.trace = trace
    return world.run()

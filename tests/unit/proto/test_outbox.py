"""The edge's durable rows: LINK-13, LINK-15, LINK-17, LINK-18, LINK-26."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import gap
from proto.frames import GAP, Mark, Messages, Welcome
from proto.kit.database import Database, Tx
from proto.kit.errors import StorageFull, Terminal
from proto.kit.metrics import Metrics
from proto.link import edge, inbox
from proto.link.outbox import ROW_COST, Outbox
from proto.link.replica import MessageRow
from proto.link.reserve import Reserve
from proto.link.settings import LinkSettings
from proto.session_edge import Identity
from tests.kit.clock import ManualClock
from tests.sim.world import Store, World, disk


class Box:
    """An outbox over a database in memory; every call is its own transaction."""

    def __init__(self, **limits: int) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.store = Store(World(1), disk(edge.SCHEMA), lambda: None)
        self.outbox = self.again(**limits)

    def again(self, **limits: int) -> Outbox:
        self.outbox = Outbox(
            LinkSettings(**limits), clock=self.clock, metrics=self.metrics, read=self.store.read
        )  # fmt: skip
        return self.outbox

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.store.submit(lambda tx, body=body: self.outbox.put_message(tx, "history", body))  # type: ignore[misc]
        self.store.commit()

    def state(self, key: str, body: bytes, priority: int = 1) -> None:
        self.store.submit(lambda tx: self.outbox.put_state(tx, key, body, priority=priority))
        self.store.commit()

    def settle(self, states: list[tuple[str, int]], mark: int = 0) -> None:
        self.store.submit(lambda tx: self.outbox.settle(tx, states, mark))
        self.store.commit()

    def all(self) -> list[MessageRow]:
        self.outbox.rewind(0)
        out: list[MessageRow] = []
        while (batch := self.outbox.next_messages(100, 1 << 20)) is not None:
            out += batch.rows
        return out


def test_a_newer_state_survives_the_ack_of_its_older_copy() -> None:
    """LINK-13"""
    box = Box()
    box.state("k", b"old")
    ((_, token),) = box.outbox.next_states((), 10, 1000)
    box.state("k", b"new")
    box.settle([token])
    ((change, _),) = box.outbox.next_states((), 10, 1000)
    assert change.body == b"new"


def test_a_thousand_changes_of_one_key_wait_as_one() -> None:
    box = Box()
    for number in range(1000):
        box.state("k", str(number).encode())
    assert box.outbox.pending().states == 1
    assert [change.body for change, _ in box.outbox.next_states((), 10, 1000)] == [b"999"]


def test_urgent_states_go_first() -> None:
    box = Box()
    box.state("device", b"1")
    box.state("node", b"2", priority=0)
    assert [change.key for change, _ in box.outbox.next_states((), 10, 1000)] == ["node", "device"]


def test_after_a_restart_everything_that_waits_is_sent_again() -> None:
    box = Box()
    box.state("k", b"1")
    box.put(b"a", b"b")
    box.outbox.next_states((), 10, 1000)
    box.again().rewind(0)
    assert [change.body for change, _ in box.outbox.next_states((), 10, 1000)] == [b"1"]
    assert [row.body for row in box.all()] == [b"a", b"b"]


def test_over_the_byte_quota_the_oldest_are_dropped_counted_and_told() -> None:
    """LINK-17 and LINK-26"""
    box = Box(message_quota_bytes=10 * (ROW_COST + 10))
    box.put(*(b"x" * 10 for _ in range(30)))
    rows = box.all()
    assert rows[0].kind == GAP
    hole = gap.decode(rows[0].body)
    assert (hole.first, rows[0].seq, hole.reason) == (1, hole.last, "bytes")
    assert [row.seq for row in rows[1:]] == list(range(hole.last + 1, 31))
    assert box.metrics.counter("skerry_outbox_dropped_total", "", ["reason"]).value("bytes") == hole.rows
    assert box.outbox.pending().bytes <= 10 * (ROW_COST + 10) + ROW_COST + 100


def test_age_counts_running_time_and_not_the_wall_clock() -> None:
    """LINK-26"""
    box = Box(message_quota_age_s=100)
    box.put(b"old")
    box.clock.jump_wall(timedelta(days=3650))
    box.store.submit(box.outbox.prune_age)
    box.store.commit()
    assert [row.kind for row in box.all()] == ["history"]
    box.clock.advance(101)
    box.put(b"new")
    box.store.submit(box.outbox.prune_age)
    box.store.commit()
    assert [(row.seq, row.kind) for row in box.all()] == [(1, GAP), (2, "history")]


def test_running_time_goes_on_after_a_restart() -> None:
    box = Box(message_quota_age_s=100)
    box.clock.advance(60)
    box.store.submit(box.outbox.prune_age)
    box.store.commit()
    box.again(message_quota_age_s=100)
    assert box.outbox.elapsed_s() == 60


def test_a_body_over_the_bound_is_refused() -> None:
    box = Box(object_bytes=10)
    with pytest.raises(Terminal):
        box.put(b"x" * 11)


def test_while_the_disk_is_full_nothing_new_is_taken() -> None:
    """LINK-18"""
    box = Box()
    box.outbox.closed = "the disk is full"
    with pytest.raises(StorageFull):
        box.put(b"x")
    with pytest.raises(StorageFull):
        box.outbox.put_state(Tx(box.store.conn), "k", b"x")


def test_the_reserve_takes_room_gives_it_back_and_takes_it_again(tmp_path: Path) -> None:
    """LINK-18"""
    reserve = Reserve(tmp_path / "r", 1 << 20)
    assert reserve.restore()
    assert (tmp_path / "r").stat().st_blocks * 512 >= 1 << 20
    assert reserve.release()
    assert not (tmp_path / "r").exists()
    assert not reserve.release()
    assert reserve.restore()


def test_a_reserve_that_does_not_fit_is_not_held(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "r", 1 << 60)
    assert not reserve.restore()
    assert not (tmp_path / "r").exists()


def test_rows_are_applied_once_with_their_mark_in_the_same_transaction() -> None:
    """LINK-15"""
    store = Store(World(1), disk(edge.SCHEMA), lambda: None)
    got: list[list[int]] = []
    for rows in ([1, 2], [1, 2], [2, 3]):
        batch = Messages(rows[0] - 1, [MessageRow(seq, "command", b"") for seq in rows], "c")
        store.submit(lambda tx, batch=batch: inbox.fresh(tx, batch, 1), lambda new: got.append([r.seq for r in new]))  # type: ignore[misc]
        store.commit()
    assert got == [[1, 2], [], [3]]
    assert [(m.lineage, m.seq) for m in inbox.marks(store.conn)] == [("c", 3)]


def test_a_new_disk_begins_where_the_cloud_says() -> None:
    store = Store(World(1), disk(edge.SCHEMA), lambda: None)
    store.submit(inbox.identity)
    store.submit(lambda tx: inbox.adopt(tx, 4, Welcome(nonce=1, cloud="c", bases=(Mark("c", 7),))))
    who: list[Identity] = []
    store.submit(inbox.identity, who.append)
    store.commit()
    assert (who[0].epoch, who[0].cloud) == (4, "c")
    assert inbox.marks(store.conn) == (("c", 7),)


def test_joining_again_makes_another_disk_of_this_one() -> None:
    store = Store(World(1), disk(edge.SCHEMA), lambda: None)
    who: list[Identity] = []
    store.submit(inbox.identity, who.append)
    store.submit(inbox.rejoin)
    store.submit(inbox.identity, who.append)
    store.commit()
    assert who[0].incarnation != who[1].incarnation


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 30)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(deadline=None)
def test_the_outbox_is_an_unbroken_chain_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """LINK-17: every row is there, in a gap, or acknowledged."""
    limits = {"message_quota_bytes": 6 * (ROW_COST + 1)}
    box = Box(**limits)
    put = acked = 0
    for step, number in steps:
        if step == "put":
            box.put(*(b"x" for _ in range(number)))
            put += number
        elif step == "ack":
            acked = max(acked, min(number, put))
            box.settle([], acked)
        else:
            box.again(**limits)
        at = acked
        for row in box.all():
            first = gap.decode(row.body).first if row.kind == GAP else row.seq
            assert first <= at + 1
            at = row.seq
        assert at == max(put, acked)
        floor, last = box.outbox.bounds()
        assert (last, floor <= acked) == (put, True)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(tmp_path / "edge.db", [edge.SCHEMA])
    yield opened
    await opened.close()


async def test_a_transaction_that_fails_leaves_no_message_and_no_wake(db: Database) -> None:
    woken: list[bool] = []
    outbox = Outbox(LinkSettings(), clock=ManualClock(), metrics=Metrics(), read=db.read)
    outbox.wake = lambda: woken.append(True)

    def work(tx: object) -> None:
        outbox.put_message(tx, "history", b"x")  # type: ignore[arg-type]
        raise Terminal("no")

    with pytest.raises(Terminal):
        await db.tx(work)
    assert outbox.bounds() == (0, 0)
    assert not woken

"""Window, order, pieces, gaps and digests."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import codec, digest, gap, repair
from proto.exchange import Exchange
from proto.frames import GAP, Ack, Frame, Inventory, Lane, Messages, States
from proto.kit.errors import MalformedMessage
from proto.link.replica import MessageRow, StateChange
from proto.order import MAX_PIECES_BYTES, Order, Pieces
from proto.session import Deliver, Send
from proto.window import FIRST_RESEND_FRAMES, START_BYTES, Flight, Limits, Window
from tests.unit.proto.test_sessions import FakeFeed, of

LIMITS = Limits()
D = b"d" * 16


def flight(end: int, size: int = 1000, lane: Lane = Lane.MESSAGE, lineage: str = "") -> Flight:
    return Flight(lane, lineage, end, (), size, None)


def window() -> Window:
    return Window(LIMITS, random.Random(1))


def test_the_window_closes_at_its_frames_and_bytes() -> None:
    """LINK-30"""
    few, large = window(), window()
    for i in range(LIMITS.frames):
        assert few.has_room(Lane.STATE)
        few.add(flight(i + 1, 1, Lane.STATE), 0.0)
    assert not few.has_room(Lane.STATE)
    large.add(flight(1, START_BYTES, Lane.STATE), 0.0)
    assert not large.has_room(Lane.STATE)


def test_messages_leave_room_for_states() -> None:
    """LINK-33"""
    full = window()
    while full.has_room(Lane.MESSAGE):
        full.add(flight(full.in_flight_frames + 1), 0.0)
    assert full.has_room(Lane.STATE)


def test_an_acknowledgement_frees_everything_up_to_it_and_nothing_else() -> None:
    """LINK-31"""
    some = window()
    for end in (3, 6, 9):
        some.add(flight(end), 0.0)
    assert [f.end for f in some.acked(Lane.MESSAGE, "", 7, 1.0)] == [3, 6]
    assert some.acked(Lane.MESSAGE, "", 6, 1.0) == []
    assert some.acked(Lane.MESSAGE, "other", 99, 1.0) == []
    assert some.acked(Lane.STATE, "", 99, 1.0) == []
    assert (some.in_flight_frames, some.in_flight_bytes) == (1, 1000)


def test_unacknowledged_batches_are_sent_again_later_and_later_the_oldest_first() -> None:
    """LINK-32"""
    some = window()
    for end in range(1, 8):
        some.add(flight(end), 0.0)
    waits, now = [], 0.0
    for _ in range(4):
        due = some.due_s()
        assert due is not None
        assert some.resend(due - 0.001) == []
        assert [f.end for f in some.resend(due)] == list(range(1, FIRST_RESEND_FRAMES + 1))
        waits.append(due - now)
        now = due
    assert all(LIMITS.resend_base_s <= wait <= LIMITS.resend_cap_s for wait in waits)
    assert waits[-1] > waits[0]


def test_after_progress_the_rest_of_a_burst_of_loss_is_sent_at_once() -> None:
    """LINK-32"""
    some = window()
    for end in range(1, 21):
        some.add(flight(end), 0.0)
    due = some.due_s()
    assert due is not None
    some.resend(due)
    some.acked(Lane.MESSAGE, "", 4, due + 0.1)
    assert [f.end for f in some.recover(due + 0.1)] == list(range(5, 13))


def test_the_window_grows_with_acknowledgements_and_halves_at_a_timeout() -> None:
    """LINK-34"""
    some = window()
    for end in range(1, 11):
        some.add(flight(end, 100_000), 0.0)
        some.acked(Lane.MESSAGE, "", end, 0.1)
    grown = some.room_bytes
    assert grown == START_BYTES + 1_000_000
    some.add(flight(11), 0.2)
    due = some.due_s()
    assert due is not None
    some.resend(due)
    assert some.room_bytes == grown // 2


@given(st.permutations(range(8)), st.lists(st.integers(0, 7)))
def test_batches_come_out_once_and_in_order_whatever_the_network_does(order: list[int], again: list[int]) -> None:
    """LINK-35 and LINK-36"""
    lane: Order[int] = Order()
    out: list[int] = []
    for number in [*order, *again]:
        out += [batch for _, batch in lane.offer("", number, number + 1, number) or []]
    assert out == list(range(8))
    assert lane.offer("", 3, 4, 3) is None


def exchange() -> Exchange:
    return Exchange(3, 7, Inventory.STATUSES, FakeFeed(), LIMITS, random.Random(1))


def test_a_batch_that_comes_twice_is_acknowledged_again_and_not_delivered() -> None:
    """LINK-36"""
    one = exchange()
    batch = Frame(3, Messages(0, [MessageRow(1, "history", b"x")], "c"))
    (deliver,) = of(one.receive(batch, 0.0), Deliver)
    assert of(one.receive(batch, 0.1), Deliver) == []
    assert one.pump(0.1) == []  # not committed: nothing to acknowledge yet
    one.committed(0, deliver.messages)
    one.pump(0.2)
    one.receive(batch, 0.3)
    assert of(one.pump(0.3), Send)[0].frame.acks == (Ack(Lane.MESSAGE, 1, "c"),)


def test_pieces_make_the_whole_in_any_order_and_unfinished_ones_are_bounded() -> None:
    """LINK-37"""
    body = States(4, [StateChange("k", b"x" * 500_000, D)])
    parts = codec.cut(body, 100_000)
    pieces = Pieces()
    for part in reversed(parts[1:]):
        assert pieces.offer(part) is None
    assert pieces.offer(parts[0]) == body
    for seq in range(100, 200):
        pieces.offer(type(parts[0])(Lane.STATE, seq, 0, 2, b"x" * 100_000))
    assert pieces._bytes <= MAX_PIECES_BYTES
    assert pieces.forgotten > 0


def test_a_gap_is_shortened_to_what_the_receiver_misses() -> None:
    """LINK-17"""
    rows = [MessageRow(9, GAP, gap.encode(gap.Gap(3, 9, "bytes"))), MessageRow(10, "history", b"x")]
    clipped = gap.clip(rows, 6)
    assert gap.decode(clipped[0].body) == gap.Gap(7, 9, "bytes")
    assert [row.seq for row in clipped] == [9, 10]
    assert gap.clip(rows, 9) == rows[1:]
    assert gap.clip(rows, 2) == rows


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"from":5,"to":4,"reason":"x"}', b'{"from":"x","to":4,"reason":"x"}']
)
def test_a_gap_row_that_says_nothing_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        gap.decode(body)


INVENTORIES = st.dictionaries(st.text(min_size=1, max_size=8), st.binary(min_size=16, max_size=16), max_size=30)


@given(INVENTORIES, INVENTORIES)
def test_roots_are_equal_exactly_when_inventories_are(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """LINK-20"""
    assert (digest.root(one) == digest.root(other)) == (one == other)
    assert digest.root(dict(reversed(list(one.items())))) == digest.root(one)


@given(INVENTORIES, INVENTORIES, st.integers(100, 5000))
def test_a_comparison_finds_exactly_the_keys_that_differ(
    mine: dict[str, bytes], theirs: dict[str, bytes], page: int
) -> None:
    """LINK-21 and LINK-22"""
    driver = repair.Repair(Inventory.HELD, lambda: mine, random.Random(1))
    asks = driver.compare(digest.root(theirs), 0.0)
    found: list[str] = []
    while asks:
        answers = repair.answer(asks.pop(), theirs, page)
        for one in answers:
            keys, more = driver.answered(one, 0.1)
            found += keys
            asks += more
    assert sorted(found) == sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
    assert driver.stage is repair.Stage.IDLE


def test_an_ask_is_repeated_and_answers_of_older_rounds_are_ignored() -> None:
    """LINK-24"""
    driver = repair.Repair(Inventory.HELD, lambda: {"k": D}, random.Random(1))
    (ask,) = driver.compare(digest.root({}), 0.0)
    assert driver.tick(0.5) == []
    assert driver.tick(5.0) == [ask]
    (answer,) = repair.answer(ask, {}, 1000)
    old = type(answer)(answer.inventory, answer.round - 1, answer.digests)
    assert driver.answered(old, 5.1) == ([], [])
    assert driver.answered(answer, 5.2)[1]

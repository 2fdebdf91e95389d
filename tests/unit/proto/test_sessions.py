"""The two machines, frame by frame."""

import random
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from proto import digest
from proto.exchange import StateRow
from proto.frames import (
    Ack,
    Body,
    Frame,
    Hello,
    Lane,
    Mark,
    Messages,
    Ping,
    Pong,
    Presence,
    Reason,
    Refused,
    States,
    Welcome,
)
from proto.link.replica import MessageRow, StateChange
from proto.link.settings import LinkSettings
from proto.session import (
    Adopt,
    Alarm,
    Announce,
    CloudState,
    Confirm,
    Deliver,
    Drop,
    EdgeState,
    Effect,
    Ended,
    IllegalEvent,
    Judge,
    Opened,
    Send,
    Settled,
)
from proto.session_cloud import CloudSession
from proto.session_edge import EdgeSession, Identity, Positions

E = TypeVar("E")
SETTINGS = LinkSettings(keep_alive_s=10.0)
ROOT = digest.root({})


@dataclass
class FakeFeed:
    """What a test says there is to send."""

    waiting: dict[str, bytes] = field(default_factory=dict)
    rows: list[MessageRow] = field(default_factory=list)
    wanted: dict[str, bytes] | None = field(default_factory=dict)
    last: int = 0

    def states(self, flying: Container[str], max_rows: int, max_bytes: int) -> list[StateRow]:
        keys = [key for key in self.waiting if key not in flying]
        return [StateRow(StateChange(key, self.waiting.pop(key)), (key, 1)) for key in keys]

    def messages(self, lineage: str | None, max_rows: int, max_bytes: int) -> Messages | None:
        rows, self.rows = self.rows, []
        return Messages(rows[0].seq - 1, rows) if rows else None

    def expected(self) -> Mapping[str, bytes] | None:
        return self.wanted

    def held(self) -> Mapping[str, bytes]:
        return {}

    def has_states(self) -> bool:
        return bool(self.waiting)

    def positions(self) -> Positions:
        return Positions(0, self.last, (Mark("c", 4),))

    def begin(self, mark: int = 0) -> None:
        return None


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def bodies(effects: list[Effect], kind: type[E]) -> list[E]:
    return [send.frame.body for send in of(effects, Send) if isinstance(send.frame.body, kind)]


def frame(session: EdgeSession | CloudSession, epoch: int, body: Body | None, acks: tuple[Ack, ...] = ()) -> Frame:
    """A frame of the present session, whatever ``epoch`` it claims."""
    made = session.tag if isinstance(session, CloudSession) else session.exchange.tag if session.exchange else 0
    return Frame(epoch, body, acks, made)


def edge(feed: FakeFeed | None = None, epoch: int = 2) -> EdgeSession:
    return EdgeSession(Identity("disk", epoch, "c"), feed or FakeFeed(), SETTINGS, random.Random(1))


def live_edge(feed: FakeFeed | None = None) -> EdgeSession:
    session = edge(feed)
    (hello,) = bodies(session.connected(77, 0.0), Hello)
    session.receive(Frame(3, Welcome(nonce=hello.nonce, cloud="c", statuses=ROOT)), 0.1)
    session.adopted(0.2)
    return session


def cloud(feed: FakeFeed | None = None) -> CloudSession:
    return CloudSession("gw-1", "c", feed or FakeFeed(), SETTINGS, random.Random(1))


def greeting(nonce: int = 5, attempt: int = 1, connection: int = 77) -> Hello:
    return Hello(connection=connection, nonce=nonce, incarnation="disk", attempt=attempt, held=ROOT)


def live_cloud(feed: FakeFeed | None = None, epoch: int = 3) -> CloudSession:
    session = cloud(feed)
    (judging,) = of(session.receive(Frame(0, greeting()), 0.0), Judge)
    session.granted(judging.hello, epoch, 0, [], ROOT, 0.1)
    session.receive(frame(session, epoch, Ping()), 0.2)
    session.confirmed(epoch, 0.3)
    return session


# the edge


def test_a_hello_is_repeated_with_the_same_nonce_until_it_is_answered() -> None:
    """LINK-2"""
    session = edge()
    (first,) = bodies(session.connected(77, 0.0), Hello)
    due = session.due_s()
    assert due is not None
    (second,) = bodies(session.tick(due), Hello)
    assert (second.nonce, second.attempt) == (first.nonce, 2)


def test_an_answer_to_another_hello_is_ignored() -> None:
    """LINK-2"""
    session = edge()
    (hello,) = bodies(session.connected(77, 0.0), Hello)
    assert session.receive(frame(session, 9, Welcome(nonce=hello.nonce + 1, cloud="c")), 0.1) == []
    assert session.state is EdgeState.GREETING


def test_nothing_of_an_epoch_is_sent_before_it_is_committed() -> None:
    """LINK-4"""
    feed = FakeFeed({"k": b"1"}, [MessageRow(1, "history", b"x")], last=1)
    session = edge(feed)
    (hello,) = bodies(session.connected(77, 0.0), Hello)
    effects = session.receive(frame(session, 3, Welcome(nonce=hello.nonce, cloud="c")), 0.1)
    assert [type(effect) for effect in effects] == [Adopt]
    assert session.wake(0.15) == []
    assert [send.frame.epoch for send in of(session.adopted(0.2), Send)] == [3, 3, 3]


def test_a_frame_of_another_epoch_has_no_effect() -> None:
    """LINK-5"""
    session = live_edge()
    assert session.receive(frame(session, 2, States(1, [StateChange("k", b"{}", b"d" * 16)])), 1.0) == []
    assert session.stale_frames == 1


def test_a_frame_of_a_session_with_the_same_number_but_another_tag_has_no_effect() -> None:
    """LINK-5"""
    for session in (live_edge(), live_cloud()):
        assert session.exchange is not None
        stranger = Frame(3, States(1, [StateChange("k", b"{}", b"d" * 16)]), (), session.exchange.tag ^ 1)
        assert not of(session.receive(stranger, 1.0), Deliver)
        assert session.stale_frames == 1


def test_a_session_that_the_cloud_forgot_is_greeted_again() -> None:
    """LINK-5"""
    session = live_edge()
    effects = session.receive(frame(session, 3, Refused(reason=Reason.STALE)), 1.0)
    assert of(effects, Ended)
    assert session.state is EdgeState.GREETING
    assert bodies(session.tick(2.0), Hello)


def test_a_stale_notice_for_an_older_session_is_ignored() -> None:
    session = live_edge()
    session.receive(frame(session, 2, Refused(reason=Reason.STALE)), 1.0)
    assert session.state is EdgeState.LIVE


def test_a_fenced_edge_says_why_and_leaves_the_broker() -> None:
    """LINK-7 and LINK-10"""
    session = edge()
    (hello,) = bodies(session.connected(77, 0.0), Hello)
    (drop,) = of(
        session.receive(frame(session, 0, Refused(reason=Reason.FENCED, nonce=hello.nonce, text="copy")), 0.1), Drop
    )
    assert drop.pause_s >= SETTINGS.fenced_retry_s / 2
    assert (session.state, session.fenced_text) == (EdgeState.FENCED, "copy")


def test_an_edge_does_not_follow_a_cloud_that_knows_more_than_its_disk() -> None:
    """LINK-8"""
    session = edge(FakeFeed(last=3))
    (hello,) = bodies(session.connected(77, 0.0), Hello)
    effects = session.receive(frame(session, 3, Welcome(nonce=hello.nonce, cloud="c", mark=4)), 0.1)
    assert of(effects, Drop)
    assert not of(effects, Adopt)


def test_silence_is_pinged_at_a_keep_alive_and_ends_the_session_at_one_and_a_half() -> None:
    """LINK-11"""
    session = live_edge()
    session.receive(frame(session, 3, Pong()), 1.0)
    assert not bodies(session.tick(10.9), Ping)
    assert bodies(session.tick(11.0), Ping)
    assert bodies(session.tick(12.3), Ping)
    assert of(session.tick(15.9), Drop) == []
    assert of(session.tick(16.0), Drop)


def test_presence_names_the_connection_and_then_the_epoch() -> None:
    """LINK-12"""
    session = edge()
    assert of(session.connected(77, 0.0), Announce) == [Announce(Presence(True, 77, 2))]


def test_anti_entropy_carries_the_root_once_a_minute() -> None:
    """LINK-25"""
    session = live_edge()
    session.receive(frame(session, 3, Pong()), 59.0)
    assert all(not ping.held for ping in bodies(session.tick(59.9), Ping))
    assert bodies(session.tick(60.3), Ping) == [Ping(ROOT)]


def test_statuses_are_not_compared_while_some_are_on_their_way() -> None:
    """LINK-25"""
    session = live_edge(FakeFeed({"k": b"1"}))
    assert not of(session.receive(frame(session, 3, Pong(b"o" * 16)), 1.0), Send)


def test_an_event_that_the_table_does_not_know_changes_nothing() -> None:
    session = live_edge()
    with pytest.raises(IllegalEvent):
        session.connected(78, 1.0)
    assert session.state is EdgeState.LIVE


# the cloud


def test_a_session_is_live_when_its_first_frame_is_confirmed() -> None:
    """LINK-3"""
    session = cloud()
    (judging,) = of(session.receive(Frame(0, greeting()), 0.0), Judge)
    (welcome,) = bodies(session.granted(judging.hello, 3, 0, [], ROOT, 0.1), Welcome)
    assert welcome.nonce == 5
    assert of(session.receive(frame(session, 3, Messages(0, [MessageRow(1, "history", b"x")])), 0.2), Confirm)
    effects = session.confirmed(3, 0.3)
    assert of(effects, Opened) == [Opened(3)]
    assert [deliver.messages[0].end for deliver in of(effects, Deliver)] == [1]


def test_a_newer_hello_ends_the_earlier_session_and_its_frames_have_no_effect() -> None:
    """LINK-3 and LINK-5"""
    session = live_cloud()
    (judging,) = of(session.receive(Frame(0, greeting(nonce=6, connection=78)), 1.0), Judge)
    assert [ended.epoch for ended in of(session.granted(judging.hello, 4, 0, [], ROOT, 1.1), Ended)] == [3]
    effects = session.receive(frame(session, 3, Messages(0, [MessageRow(1, "history", b"x")])), 1.2)
    assert [refused.reason for refused in bodies(effects, Refused)] == [Reason.STALE]
    assert not of(effects, Deliver)


def test_old_frames_get_one_answer_a_second() -> None:
    """LINK-5"""
    session = live_cloud()
    told = [bool(session.receive(frame(session, 1, Ping()), at)) for at in (5.0, 5.1, 5.9, 6.1)]
    assert told == [True, False, False, True]


def test_a_fenced_hello_leaves_the_live_session_alone() -> None:
    """LINK-7"""
    session = live_cloud()
    (judging,) = of(session.receive(Frame(0, greeting(nonce=6)), 1.0), Judge)
    effects = session.fenced(judging.hello, "copy")
    assert of(effects, Alarm)
    assert not of(effects, Ended)
    assert session.state is CloudState.LIVE


def test_a_late_copy_of_the_hello_that_made_the_session_is_dropped() -> None:
    session = live_cloud()
    assert session.receive(Frame(0, greeting(attempt=2)), 1.0) == []


def test_a_repeated_hello_before_the_first_frame_gets_the_same_welcome() -> None:
    session = cloud()
    (judging,) = of(session.receive(Frame(0, greeting()), 0.0), Judge)
    first = bodies(session.granted(judging.hello, 3, 0, [], ROOT, 0.1), Welcome)
    assert bodies(session.receive(Frame(0, greeting(attempt=2)), 0.5), Welcome) == first


def test_only_the_will_of_the_sessions_own_connection_ends_it() -> None:
    """LINK-12"""
    session = live_cloud()
    assert session.presence(Presence(False, 76, 2), 1.0) == []
    assert of(session.presence(Presence(False, 77, 2), 1.1), Ended)


def test_a_started_cloud_asks_whoever_is_online_to_say_hello_over_time() -> None:
    """LINK-39"""
    session = cloud()
    session.spread_s = 3.0
    (refused,) = bodies(session.presence(Presence(True, 77, 3), 0.0), Refused)
    assert (refused.reason, refused.retry_after_ms) == (Reason.STALE, 3000)


def test_a_silent_node_is_lost_after_one_and_a_half_keep_alives() -> None:
    """LINK-11"""
    session = live_cloud()
    assert session.tick(15.1) == []
    assert of(session.tick(15.2), Ended)
    assert session.state is CloudState.IDLE


def test_no_comparison_is_made_before_the_informers_have_synced() -> None:
    """LINK-23"""
    feed = FakeFeed(wanted=None)
    session = live_cloud(feed)
    feed.wanted = {"k": b"d" * 16}
    due = session.due_s()
    assert due is not None
    assert due < 1.0
    assert len(of(session.tick(due), Send)) == 1


def test_what_is_acknowledged_is_what_was_committed() -> None:
    """LINK-14"""
    session = live_cloud()
    effects = session.receive(frame(session, 3, Messages(0, [MessageRow(1, "history", b"x")])), 1.0)
    (deliver,) = of(effects, Deliver)
    assert not [ack for send in of(effects, Send) for ack in send.frame.acks]
    (send,) = of(session.committed(3, 0, deliver.messages, 1.1), Send)
    assert (send.frame.acks, send.qos) == ((Ack(Lane.MESSAGE, 1),), 0)


def test_batches_go_at_qos_1_and_bare_acknowledgements_at_qos_0() -> None:
    """LINK-40"""
    session = live_edge(FakeFeed({"k": b"1"}))
    sends = of(session.wake(1.0), Send)
    assert not sends  # already sent when the session opened
    effects = session.receive(frame(session, 3, States(1, [StateChange("k", b"{}", b"d" * 16)])), 1.0)
    assert of(effects, Deliver)
    assert [send.qos for send in of(session.committed(3, 1, [], 1.1), Send)] == [0]


def test_a_newer_state_waits_for_the_acknowledgement_of_its_older_copy() -> None:
    """LINK-13"""
    feed = FakeFeed({"k": b"1"})
    session = live_edge(feed)
    feed.waiting["k"] = b"2"
    assert not bodies(session.wake(1.0), States)
    effects = session.receive(frame(session, 3, None, (Ack(Lane.STATE, 1),)), 1.1)
    assert of(effects, Settled)
    (states,) = bodies(effects, States)
    assert states.changes[0].body == b"2"

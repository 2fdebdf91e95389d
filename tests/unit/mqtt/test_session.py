"""MQTT-4 and the session machine."""

from proto.mqtt.limits import Quota
from proto.mqtt.packets import MAX_PACKET_ID, Publish
from proto.mqtt.session import Entry, Session
from proto.mqtt.store import Store
from tests.kit.clock import ManualClock

LIMITS = (1000, 1_000_000)


class Outlet:
    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes, bool]] = []
        self.rels: list[int] = []
        self.open = True
        self.takes = True

    def writable(self) -> bool:
        return self.open

    def send_message(self, entry: Entry) -> bool:
        if self.takes:
            self.sent.append((entry.packet_id, entry.message.payload, entry.dup))
        return self.takes

    def send_qos0(self, message: Publish, retain: bool, ids: tuple[int, ...]) -> None:
        raise AssertionError

    def send_pubrel(self, packet_id: int) -> None:
        self.rels.append(packet_id)

    def shut(self, reason: int, *, will: bool = True) -> None:
        raise AssertionError


def make(window: int = 2) -> tuple[Session, Outlet]:
    session = Session("s", "owner", quota=Quota(10_000_000), ledger=Store(None, ManualClock()))
    session.stored = True
    session.window = window
    outlet = Outlet()
    session.outlet = outlet
    return session, outlet


def put(session: Session, *payloads: bytes, qos: int = 1) -> None:
    for payload in payloads:
        entry = session.admit(Publish("t", payload, qos), qos, retain=False, ids=(), limits=LIMITS)
        assert entry is not None
        session.push(entry)
    session.pump()


def test_window_bounds_what_is_in_flight() -> None:
    session, outlet = make(window=2)
    put(session, b"1", b"2", b"3")
    assert [one[1] for one in outlet.sent] == [b"1", b"2"]

    assert session.acknowledged(1)
    session.pump()

    assert [one[1] for one in outlet.sent] == [b"1", b"2", b"3"]


def test_floor_follows_acknowledgements_in_any_order() -> None:
    session, _ = make(window=10)
    put(session, b"1", b"2", b"3", b"4")
    for packet_id, floor in ((3, 0), (1, 1), (2, 3), (4, 4)):
        assert session.acknowledged(packet_id)
        assert session.floor == floor
    assert session.queued_bytes == 0
    assert session.quota.used_bytes == 0


def test_unknown_and_repeated_acknowledgements_change_nothing() -> None:
    session, _ = make()
    put(session, b"1")
    assert not session.acknowledged(9)
    assert not session.received(1, failed=False)
    assert session.acknowledged(1)
    assert not session.acknowledged(1)
    assert not session.completed(1)


def test_resume_sends_releases_then_unacknowledged_with_dup_then_the_rest() -> None:
    session, outlet = make(window=3)
    put(session, b"1", b"2", b"3", b"4", qos=2)
    assert session.received(2, failed=False)
    session.outlet = None
    outlet.sent.clear()
    again = Outlet()
    session.outlet = again

    session.resume()

    assert again.rels == [2]
    assert again.sent == [(1, b"1", True), (3, b"3", True)]
    assert session.completed(2)
    session.pump()
    assert again.sent[-1] == (4, b"4", False)


def test_a_packet_id_in_use_holds_back_the_message_65535_later() -> None:
    session, outlet = make(window=10)
    put(session, b"old")
    session.next_seq = MAX_PACKET_ID + 1
    put(session, b"new")
    assert len(outlet.sent) == 1

    assert session.acknowledged(1)
    session.pump()

    assert outlet.sent[-1] == (1, b"new", False)


def test_quota_refuses_the_newest_and_gives_room_back() -> None:
    session, _ = make()
    small = (2, 1_000_000)
    message = Publish("t", b"x", 1)
    entries = [session.admit(message, 1, retain=False, ids=(), limits=small) for _ in range(2)]
    for entry in entries:
        assert entry is not None
        session.push(entry)
    assert session.admit(message, 1, retain=False, ids=(), limits=small) is None
    assert session.admit(message, 1, retain=False, ids=(), limits=(9, 300)) is None

    session.pump()
    session.acknowledged(1)

    assert session.admit(message, 1, retain=False, ids=(), limits=small) is not None


def test_a_message_that_the_client_can_never_take_is_settled() -> None:
    session, outlet = make()
    outlet.takes = False
    put(session, b"1", b"2")
    assert (session.queued_bytes, session.floor, session.queue) == (0, 2, None)


def test_nothing_is_sent_to_a_client_that_does_not_read() -> None:
    session, outlet = make()
    outlet.open = False
    put(session, b"1")
    assert not outlet.sent

    outlet.open = True
    session.pump()

    assert len(outlet.sent) == 1


def test_the_end_gives_everything_back() -> None:
    session, _ = make(window=1)
    put(session, b"1", b"2", qos=2)

    assert len(session.end()) == 2

    assert session.quota.used_bytes == 0
    late = Entry(Publish("t", b"late", 1), 1, retain=False, ids=(), seq=9)
    session.waiting += 1
    session.queued_bytes += late.size_bytes
    session.quota.used_bytes += late.size_bytes
    session.push(late)
    assert session.quota.used_bytes == 0

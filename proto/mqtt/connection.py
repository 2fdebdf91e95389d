"""One client's TCP or TLS connection: bytes to packets to broker, and back in one write per turn of the loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from proto.kit.log import Logger
from proto.mqtt import connect as handshake
from proto.mqtt import properties as p
from proto.mqtt import reasons
from proto.mqtt.identity import Identity
from proto.mqtt.limits import TokenBucket
from proto.mqtt.packets import (
    V5,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
    encode,
)
from proto.mqtt.publishing import PAUSED_BACKLOG, failed, receive, receive_ack
from proto.mqtt.reader import Reader
from proto.mqtt.reasons import Violation, protocol_error
from proto.mqtt.routing import Ticket
from proto.mqtt.session import Session
from proto.mqtt.subscribing import subscribe, unsubscribe
from proto.mqtt.timers import Timer
from proto.mqtt.wire import Wire

if TYPE_CHECKING:
    from proto.mqtt.broker import MqttBroker

log = Logger("mqtt")
NOBODY = Identity("")  # before CONNECT
PINGRESP = b"\xd0\x00"
PAUSED_ACCEPT, PAUSED_RATE = 1, 4  # why reading is paused, beside PAUSED_BACKLOG
KEEP_ALIVE_FACTOR = 1.5  # MQTT 5 §3.1.2.10


class ClientConnection(Wire):
    """The broker's end of one network connection."""

    __slots__ = (
        "__weakref__",
        "address",
        "alias_in",
        "bucket",
        "identity",
        "keep_alive_s",
        "may_publish",
        "pending",
        "reader",
        "ticket",
        "tickets",
        "timer",
        "unacknowledged",
    )

    def __init__(self, broker: "MqttBroker") -> None:
        super().__init__(broker)
        self.reader = Reader(broker.settings.max_connect_bytes, broker.names)
        self.identity = NOBODY
        self.pending = False  # counted among those that have not authenticated
        self.address = ""
        self.keep_alive_s = 0
        self.timer: Timer | None = None
        self.alias_in: dict[int, str] | None = None
        self.may_publish: dict[str, bool] | None = None
        self.bucket: TokenBucket | None = None
        self.ticket: Ticket | None = None  # of the read being worked on
        self.tickets: deque[Ticket] | None = None  # earlier ones that wait, oldest first
        self.unacknowledged = 0  # QoS 1 and 2 messages in tickets
        broker.handshakes.begin(self)

    # -- asyncio.Protocol

    def __del__(self) -> None:
        if not hasattr(self, "transport"):  # asyncio tells nobody when a TLS handshake fails
            self.broker.handshakes.end(self)
            self.broker.counters.refused.inc("tls_handshake")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's own classes do not inherit it
        self.transport = transport
        broker = self.broker
        broker.handshakes.end(self)
        peer = self.transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        full = len(broker.connections) >= broker.settings.max_connections
        if full or broker.closed or not broker.pending.enter(self.address):
            broker.counters.refused.inc("too_many_connections")
            self.closed = True
            self.transport.abort()
            return
        self.pending = True
        broker.connections.add(self)
        self.transport.set_write_buffer_limits(high=broker.settings.out_buffer_bytes)
        due_s = broker.clock.now_s() + broker.settings.connect_timeout_s
        self.timer = broker.sessions.timers.at(due_s, self._connect_timed_out)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._detach(will=True)
        self.closed = True
        self.out.clear()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self.last_read_s = self.broker.clock.now_s()
        try:
            self._work(self.reader.feed(data))
        except Violation as violation:
            self._violated(violation)
        except Exception:
            log.exception("connection failed", client=self.session.client_id if self.session else "")
            self._violated(Violation(reasons.UNSPECIFIED, "internal error"))
        if self.ticket is not None:
            self._finish_ticket()

    def _work(self, packets: list[Packet]) -> None:
        messages = 0
        acknowledged = False
        for packet in packets:
            if self.closed:
                return
            kind = type(packet)
            if kind is Publish:
                messages += 1
                receive(self, packet)  # type: ignore[arg-type]
            elif kind is Ack:
                acknowledged = True
                receive_ack(self, packet)  # type: ignore[arg-type]
            else:
                self._dispatch(packet)
        if acknowledged and self.session is not None and self.session.queue:
            self.session.pump()
        if self.reader.error is not None and not self.closed:
            raise self.reader.error
        if messages and self.broker.settings.publishes_per_s > 0:
            self._throttle(messages)

    # -- closing

    def _connect_timed_out(self) -> None:
        if not self.connected:
            self.broker.counters.closed.inc("connect_timeout")
            self._close()

    def _check_alive(self) -> None:
        due_s = self.last_read_s + self.keep_alive_s * KEEP_ALIVE_FACTOR
        if self.pauses:  # we do not read: silence is ours
            due_s = self.broker.clock.now_s() + self.keep_alive_s
        if due_s <= self.broker.clock.now_s():
            self.shut(reasons.KEEP_ALIVE_TIMEOUT)
        else:
            self.timer = self.broker.sessions.timers.at(due_s, self._check_alive)

    def _violated(self, violation: Violation) -> None:
        self.broker.counters.closed.inc(f"0x{violation.reason:02x}")
        log.debug("client violated the protocol", address=self.address, why=violation)
        if self.connected or self.closed:
            self.shut(violation.reason, counted=True)
        else:
            self.version = self.reader.version
            if self.version or violation.reason == reasons.UNSUPPORTED_VERSION:
                self.refuse(violation.reason)
            self._close()

    def refuse(self, reason: int) -> None:
        """Answer CONNECT with a failure and close."""
        code = reason if self.version == V5 else reasons.v3_return_code(reason)
        if self.version == V5 or reason not in (reasons.MALFORMED_PACKET, reasons.PROTOCOL_ERROR):
            self.write(encode(Connack(session_present=False, reason=code), self.version or 4))
        self._close()

    def shut(self, reason: int, *, will: bool = True, counted: bool = False) -> None:
        """Say DISCONNECT (MQTT 5) and close."""
        if self.closed:
            return
        if not counted:
            self.broker.counters.closed.inc(f"0x{reason:02x}")
        if self.connected and self.version == V5:
            self.write(encode(Disconnect(reason), V5))
        self._detach(will=will)
        self._close()

    def _detach(self, *, will: bool) -> None:
        session = self.session
        self.broker.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        self._leave_pending()
        self.connected = False
        if session is not None and session.outlet is self:
            self.broker.sessions.detach(session, will=will)
        self.session = None

    def _leave_pending(self) -> None:
        if self.pending:
            self.pending = False
            self.broker.pending.leave(self.address)

    # -- connecting

    def admitted(self, identity: Identity, session: Session) -> None:
        """Authentication succeeded and the session is ours."""
        self._leave_pending()
        self.identity, self.session = identity, session

    def hold(self) -> None:
        """Read nothing until the session is durable."""
        self.pause(PAUSED_ACCEPT)

    def accepted(self, answer: bytes, error: BaseException | None) -> None:
        """Send CONNACK, then what waited for this session, then go on reading."""
        if self.closed or self.session is None:
            return
        if error is not None:
            self.session.will = None
            self.refuse(reasons.SERVER_UNAVAILABLE)
            return
        self.connected = True
        self.broker.counters.connects.inc()
        self.write(answer)
        if self.timer is not None:
            self.timer.cancel()
        if self.keep_alive_s:
            due_s = self.last_read_s + self.keep_alive_s * KEEP_ALIVE_FACTOR
            self.timer = self.broker.sessions.timers.at(due_s, self._check_alive)
        self.session.resume()
        self.resume(PAUSED_ACCEPT)
        if self.reader.pending_bytes:
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def abandon(self, why: str) -> None:
        self.broker.counters.closed.inc(why)
        self._detach(will=True)
        self.closed = True
        self.transport.abort()

    def _close(self) -> None:
        if self.closed:
            return
        self.flush()
        self._detach(will=True)
        self.closed = True
        self.transport.close()

    # -- reading

    def _throttle(self, messages: int) -> None:
        settings = self.broker.settings
        now_s = self.broker.clock.now_s()
        if self.bucket is None:
            self.bucket = TokenBucket(settings.publishes_per_s, settings.publishes_burst, now_s)
        wait_s = self.bucket.take(messages, now_s)
        if wait_s > 0:
            self.pause(PAUSED_RATE)
            self.broker.sessions.timers.at(now_s + wait_s, lambda: self.resume(PAUSED_RATE))

    def _dispatch(self, packet: Packet) -> None:
        if not self.connected and type(packet) is not Connect:
            raise protocol_error("a packet before CONNECT was answered")
        action = _ACTIONS.get(type(packet))
        if action is None:
            raise protocol_error("a packet that only servers send")
        action(self, packet)

    def _on_connect(self, packet: Connect) -> None:
        self.version = packet.version
        handshake.accept(self, packet)

    def _on_ping(self, packet: Ping) -> None:
        if packet.kind != p.PINGREQ:
            raise protocol_error("PINGRESP from a client")
        self.write(PINGRESP)

    def _on_disconnect(self, packet: Disconnect) -> None:
        session = self.session
        assert session is not None
        expiry_s = packet.properties.get(p.SESSION_EXPIRY)
        if expiry_s is not None:
            if expiry_s and not session.expiry_s:
                raise protocol_error("a session expiry after CONNECT said 0")
            session.expiry_s = min(expiry_s, self.broker.settings.session_expiry_max_s)
        self._detach(will=packet.reason == reasons.DISCONNECT_WITH_WILL)
        self._close()

    def _on_auth(self, packet: Auth) -> None:  # noqa: ARG002
        raise protocol_error("AUTH without an authentication method")

    def _on_subscribe(self, packet: Subscribe) -> None:
        subscribe(self, packet, self.open_ticket())

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        unsubscribe(self, packet, self.open_ticket())

    # -- acknowledging

    def open_ticket(self) -> Ticket:
        if self.ticket is None:
            self.ticket = Ticket(self._settled)
        return self.ticket

    def _finish_ticket(self) -> None:
        ticket, self.ticket = self.ticket, None
        assert ticket is not None
        if self.tickets is None and not ticket.durable and not ticket.sinks and not self.closed:
            self._answer(ticket)
            return
        if self.tickets is None:
            self.tickets = deque()
        self.tickets.append(ticket)
        self.broker.finish(ticket)

    def _settled(self) -> None:
        """A ticket is done: answer it and those behind it that waited only for their turn."""
        tickets = self.tickets
        while tickets and tickets[0].waiting <= 0:
            self._answer(tickets.popleft())
        if not tickets:
            self.tickets = None

    def _answer(self, ticket: Ticket) -> None:
        self.unacknowledged -= ticket.messages
        if self.closed:
            return
        if self.unacknowledged < self.broker.settings.max_unacknowledged:
            self.resume(PAUSED_BACKLOG)
        acks = ticket.acks
        if ticket.error is not None and acks:
            self.broker.counters.refused.inc("not_kept", by=len(acks))
            if self.version != V5 or any(ack[0] not in (0x40, 0x50) for ack in acks):
                self.shut(reasons.QUOTA_EXCEEDED)
                return
            acks = [failed(self, ack) for ack in acks]
        if acks:
            self.write(b"".join(acks))
        for fn in ticket.after or ():
            fn()


_ACTIONS: dict[type, Callable[[ClientConnection, Any], None]] = {
    Connect: ClientConnection._on_connect,  # noqa: SLF001
    Ping: ClientConnection._on_ping,  # noqa: SLF001
    Disconnect: ClientConnection._on_disconnect,  # noqa: SLF001
    Auth: ClientConnection._on_auth,  # noqa: SLF001
    Subscribe: ClientConnection._on_subscribe,  # noqa: SLF001
    Unsubscribe: ClientConnection._on_unsubscribe,  # noqa: SLF001
}

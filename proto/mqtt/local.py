"""The broker in this process behind PORT Broker: a connection without a socket."""

import asyncio
from collections import deque

from proto.link.broker import ConnectionLost, Inbound, Unreachable, Will
from proto.mqtt import reasons
from proto.mqtt.broker import MqttBroker
from proto.mqtt.identity import INSIDE
from proto.mqtt.packets import Publish, Subscription, WillMessage
from proto.mqtt.routing import Ticket
from proto.mqtt.session import Entry, Session

MAX_INBOX = 10_000  # received and not yet taken; QoS 1 waits in the session's queue, QoS 0 is dropped and counted
WINDOW = 10_000  # messages taken and not yet acknowledged


class LocalConnection:
    """One in-process connection with a clean session; no ACL is asked."""

    def __init__(self, broker: MqttBroker) -> None:
        self._broker = broker
        self._inbox: deque[Inbound] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._session: Session | None = None

    def open(self, client_id: str, will: Will | None) -> None:
        session, _ = self._broker.sessions.attach(self, INSIDE, client_id, clean=True, expiry_s=0)
        session.window = WINDOW
        if will is not None:
            session.will = WillMessage(Publish(will.topic, will.payload, will.qos, will.retain, client_id=client_id))
        self._session = session

    def _live(self) -> Session:
        if self._session is None:
            raise ConnectionLost("the in-process connection was closed")
        return self._session

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        session = self._live()
        one = Subscription(topic_filter, min(qos, 1))
        self._broker.routing.subscribe(session, one)
        self._broker.send_retained(session, one)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._session is None:
            future.set_exception(ConnectionLost("the in-process connection was closed"))
            return future
        ticket = Ticket()
        message = Publish(topic, payload, qos, retain, client_id=self._session.client_id, identity=INSIDE)
        self._broker.route(message, self._session, ticket)
        ticket.done = lambda: _kept(future, ticket)
        self._broker.finish(ticket)
        return future

    async def receive(self) -> Inbound:
        while not self._inbox:
            self._live()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        inbound = self._inbox.popleft()
        if len(self._inbox) == MAX_INBOX // 2 and self._session is not None:
            self._session.pump()
        return inbound

    async def close(self) -> None:
        self.shut(reasons.SUCCESS, will=False)

    # -- Outlet

    def writable(self) -> bool:
        return len(self._inbox) < MAX_INBOX

    def send_message(self, entry: Entry) -> bool:
        message, packet_id = entry.message, entry.packet_id
        self._put(Inbound(message.topic, message.payload, entry.retain, lambda: self._ack(packet_id)))
        return True

    def send_qos0(self, message: Publish, retain: bool, ids: tuple[int, ...]) -> None:  # noqa: ARG002
        if len(self._inbox) >= MAX_INBOX:
            self._broker.counters.dropped.inc("slow_consumer")
            return
        self._put(Inbound(message.topic, message.payload, retain, _nothing))

    def send_pubrel(self, packet_id: int) -> None:  # noqa: ARG002
        raise AssertionError("in-process connections receive at QoS 1 at most")

    def shut(self, reason: int, *, will: bool = True) -> None:  # noqa: ARG002
        session, self._session = self._session, None
        if session is None:
            return
        if session.outlet is self:
            self._broker.sessions.detach(session, will=will)
        self._wake()

    def _ack(self, packet_id: int) -> None:
        session = self._session
        if session is not None and session.acknowledged(packet_id) and session.queue:
            session.pump()

    def _put(self, inbound: Inbound) -> None:
        self._inbox.append(inbound)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class LocalBroker(MqttBroker):
    """Our broker as PORT Broker: ``connect`` gives in-process connections while sockets serve everybody else."""

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> LocalConnection:  # noqa: ARG002
        """Return a live in-process connection; one with the same client id is taken over. Raises Unreachable."""
        return self.connect_local(client_id, will)

    def connect_local(self, client_id: str, will: Will | None = None) -> LocalConnection:
        if self.closed:
            raise Unreachable("the embedded broker is closed")
        self.start()
        connection = LocalConnection(self)
        connection.open(client_id, will)
        return connection


def _nothing() -> None:
    return


def _kept(future: "asyncio.Future[None]", ticket: Ticket) -> None:
    if future.done():
        return
    if ticket.error is None:
        future.set_result(None)
    else:
        future.set_exception(ConnectionLost(f"a message was not kept: {ticket.error}"))

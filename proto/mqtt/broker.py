"""Our MQTT broker: 3.1.1 and 5, asyncio, durable. Rules MQTT-n are in README.md.

The order of everything: identity, then session; commit, then acknowledge and deliver.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from proto.kit.clock import Clock, SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database
from proto.kit.errors import Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.tls import Handshakes, ServerContext
from proto.mqtt import reasons
from proto.mqtt.connection import ClientConnection
from proto.mqtt.counters import Counters
from proto.mqtt.identity import INSIDE, Acl, Authenticate, Identity, allow_all, anonymous
from proto.mqtt.limits import BrokerSettings, ConnectRates, Pending
from proto.mqtt.packets import Publish, Subscription, WillMessage
from proto.mqtt.retained import Retained
from proto.mqtt.routing import Route, Routing, Sink, Ticket
from proto.mqtt.session import Session
from proto.mqtt.sessions import Sessions
from proto.mqtt.store import SCHEMA, Store
from proto.mqtt.topics import TopicNames, check_name, split_share

__all__ = ["SCHEMA", "BrokerSettings", "MqttBroker"]
log = Logger("mqtt")
TICK_S = 0.2  # how late a keep-alive, a will or an expiry may be noticed
BACKLOG = 1024
RETAINED_AT_ONCE = 200  # a subscription to # may match them all; others are served in between


class PublishRefused(Terminal):
    """A message from inside has no valid topic."""

    code = "PublishRefused"


class NotKept(Retryable):
    """A message could not be made durable; the text says why."""

    code = "NotKept"


class MqttBroker:
    """A broker in this process. ``db`` must have been opened with ``SCHEMA``; None keeps nothing over a restart."""

    def __init__(
        self,
        settings: BrokerSettings | None = None,
        *,
        db: Database | None = None,
        authenticate: Authenticate = anonymous,
        acl: Acl = allow_all,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings or BrokerSettings()
        self.clock = clock or SystemClock()
        self.authenticate = authenticate
        self.acl = acl
        self.counters = Counters(metrics or Metrics())
        self.names = TopicNames(self.settings.max_topic_bytes, self.settings.max_topic_levels)
        self.store = Store(db, self.clock)
        self.routing = Routing(self._may_receive)
        self.sessions = Sessions(self.store, self.routing, self.settings, self.clock, self.counters, self._publish_will)
        self.retained = Retained(self.store, self.settings, self.clock)
        self.rates = ConnectRates(self.settings)
        self.handshakes = Handshakes(self.settings.max_handshakes, self.settings.connect_timeout_s, self.clock)
        self.pending = Pending(self.settings.max_pending_per_address)
        self.connections: set[ClientConnection] = set()
        self.queue_limits = (self.settings.queue_messages, self.settings.queue_bytes)
        self._servers: list[asyncio.Server] = []
        self._supervisor = Supervisor(self.clock)
        self._started = False
        self.closed = False
        self._assigned = 0
        self._gauges()

    def _gauges(self) -> None:
        gauge = self.counters.metrics.gauge
        gauge("skerry_mqtt_connections", "open connections", source=lambda: len(self.connections))
        gauge("skerry_mqtt_sessions", "sessions, connected or not", source=lambda: len(self.sessions.by_id))
        gauge("skerry_mqtt_subscriptions", "subscriptions", source=lambda: self.routing.subscriptions)
        gauge("skerry_mqtt_queued_bytes", "bytes waiting for sessions", source=lambda: self.sessions.quota.used_bytes)
        gauge("skerry_mqtt_retained_messages", "retained messages", source=lambda: self.retained.messages)
        gauge("skerry_mqtt_commit_failures", "transactions that could not commit", source=lambda: self.store.failures)

    # -- life

    def start(self) -> None:
        """Load what was kept; called by the first ``listen`` or ``connect_local``. Needs a running loop."""
        if self._started:
            return
        self._started = True
        if self.store.durable:
            self.retained.load()
            self.sessions.load()
        self._supervisor.spawn(self._tick(), "mqtt-tick")

    async def listen(self, host: str, port: int, ssl_context: ssl.SSLContext | None = None) -> int:
        """Serve on an address; returns the bound port. May be called for several addresses."""
        self.start()
        loop = asyncio.get_running_loop()
        if isinstance(ssl_context, ServerContext):
            ssl_context.handshakes = self.handshakes
        handshake_s = self.settings.connect_timeout_s if ssl_context else None
        server = await loop.create_server(
            lambda: ClientConnection(self),
            host,
            port,
            ssl=ssl_context,
            ssl_handshake_timeout=handshake_s,
            backlog=BACKLOG,
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop serving. Wills are not published; stored sessions stay. The database is left open."""
        self.closed = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.shut(reasons.SHUTTING_DOWN, will=False)
        for session in list(self.sessions.by_id.values()):
            if session.outlet is not None:
                session.outlet.shut(reasons.SHUTTING_DOWN, will=False)
        await self._supervisor.close()
        pending = self.store.flush()
        if pending is not None:
            with suppress(Exception):
                await pending

    async def _tick(self) -> None:
        while True:
            await self.clock.sleep(TICK_S)
            try:
                self.sessions.timers.run(self.clock.now_s())
                self.store.flush()
                self.counters.flush()
            except Exception:
                log.exception("tick failed")

    # -- from inside

    def add_sink(self, topic_filter: str, sink: Sink) -> None:
        """Call ``sink(messages)`` with what clients publish to ``topic_filter``, one call per read of a connection.

        The publisher's PUBACK or PUBREC leaves when the returned awaitable resolves (None: at once); if it raises,
        the messages are not acknowledged. At QoS 2 a crash between the sink's commit and the broker's may repeat one.
        """
        self.routing.add_sink(topic_filter, sink)

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False, exclude: Sink | str | None = None
    ) -> "asyncio.Future[None]":
        """Publish from inside, to everybody but ``exclude`` (a sink or a client id).

        The future resolves when whoever must keep the message has it on disk; raises NotKept through it.
        """
        if not check_name(topic):
            raise PublishRefused(f"{topic!r} is no topic name")
        message = Publish(topic, payload, qos, retain)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if retain and not self.retained.fits(message):
            future.set_exception(NotKept("the quota of retained messages is used up"))
            return future
        ticket = Ticket()
        publisher = self.sessions.by_id.get(exclude) if isinstance(exclude, str) else None
        self.route(message, publisher, ticket, exclude=True)
        if ticket.sinks is not None and not isinstance(exclude, str | None):
            ticket.sinks.pop(exclude, None)
        ticket.done = lambda: _resolve(future, ticket)
        self.finish(ticket)
        return future

    def kick(self, client_id: str, reason: int = reasons.ADMINISTRATIVE_ACTION) -> bool:
        """End the connection of a client (its will is published); returns whether there was one."""
        session = self.sessions.by_id.get(client_id)
        if session is None or session.outlet is None:
            return False
        session.outlet.shut(reason)
        return True

    def kick_identity(self, name: str, reason: int = reasons.NOT_AUTHORIZED) -> int:
        """End every connection of an identity, for instance when its certificate was revoked."""
        client_ids = [s.client_id for s in self.sessions.by_id.values() if s.owner == name]
        return sum(self.kick(client_id, reason) for client_id in client_ids)

    def rights_changed(self) -> None:
        """Ask the ACL again for everything; subscriptions that are not allowed any more end."""
        for session in list(self.sessions.by_id.values()):
            if session.identity is not None:
                self.drop_forbidden(session, session.identity)
        for connection in self.connections:
            connection.may_publish = None
        self.routing.changed()

    # -- for connections

    def allowed(self, identity: Identity, verb: Any, topic: str) -> bool:
        return identity is INSIDE or self.acl(identity, verb, topic)

    def _may_receive(self, session: Session, topic: str) -> bool:
        identity = session.identity
        return identity is None or identity is INSIDE or self.acl(identity, "receive", topic)

    def drop_forbidden(self, session: Session, identity: Identity) -> None:
        """End the subscriptions of ``session`` that ``identity`` may not have."""
        for topic_filter in list(session.subscriptions or ()):
            if not self.allowed(identity, "subscribe", split_share(topic_filter)[1]):
                self.routing.unsubscribe(session, topic_filter)
                if session.stored:
                    self.store.unsubscribe(session, topic_filter)
                self.counters.refused.inc("subscription_withdrawn")

    def assign_client_id(self) -> str:
        self._assigned += 1
        while f"auto-{self._assigned}" in self.sessions.by_id:
            self._assigned += 1
        return f"auto-{self._assigned}"

    def route(self, message: Publish, publisher: Session | None, ticket: Ticket, *, exclude: bool = False) -> bool:
        """Give ``message`` to everybody who wants it; returns whether anybody does. ``ticket`` learns who must keep it."""
        if message.retain:
            self.retained.put(message)
            ticket.durable = self.store.durable
        plan = self.routing.plan(message.topic)
        routes = plan.routes
        if plan.groups:
            routes = routes.copy()
            for group in plan.groups:
                picked = group.pick(lambda session: self._may_receive(session, message.topic))
                if picked is not None:
                    routes.append(picked)
        targets: list[tuple[Session, Any]] | None = None
        for route in routes:
            if route.session is publisher and (exclude or route.no_local):
                left = None if exclude else route.without_local()
                if left is None:
                    continue
                route = left  # noqa: PLW2901
            target = self._deliver(message, route)
            if target is not None:
                targets = targets or []
                targets.append(target)
        if targets:
            self.store.append(message, targets)
            ticket.durable = True
        for sink in plan.sinks:
            ticket.sinks = ticket.sinks or {}
            ticket.sinks.setdefault(sink, []).append(message)
        return bool(routes or plan.sinks)

    def _deliver(self, message: Publish, route: Route) -> tuple[Session, Any] | None:
        qos = min(route.qos, message.qos)
        retain = message.retain and route.retain_as_published
        return self.deliver(route.session, message, qos, retain=retain, ids=route.ids)

    def deliver(
        self, session: Session, message: Publish, qos: int, *, retain: bool, ids: tuple[int, ...]
    ) -> tuple[Session, Any] | None:
        """Send to one session; returns a (session, entry) that must go to the store first."""
        if not qos:
            if session.outlet is not None:
                session.outlet.send_qos0(message, retain, ids)
            return None
        entry = session.admit(message, qos, retain=retain, ids=ids, limits=self.queue_limits)
        if entry is None:
            self.counters.dropped.inc("queue_full")
            return None
        if session.stored:
            return session, entry
        session.push(entry)
        session.pump()
        return None

    def send_retained(self, session: Session, one: Subscription) -> None:
        """Send a new subscriber the retained messages of its filter, a few per turn of the loop."""
        self._send_retained(session, one, iter(self.retained.topics(one.topic_filter)))

    def _send_retained(self, session: Session, one: Subscription, topics: Iterator[str]) -> None:
        some = list(islice(topics, RETAINED_AT_ONCE))
        ids = (one.identifier,) if one.identifier else ()
        for topic in some:
            message = self.retained.get(topic)  # the newest, however long this takes
            if message is None or not self._may_receive(session, topic):
                continue
            target = self.deliver(session, message, min(one.qos, message.qos), retain=True, ids=ids)
            if target is not None:
                self.store.append(message, [target])
        if len(some) == RETAINED_AT_ONCE and not session.gone:
            asyncio.get_running_loop().call_soon(self._send_retained, session, one, topics)

    def finish(self, ticket: Ticket) -> None:
        """Call the sinks and wait for the commit; ``ticket.done`` is called, now or later, exactly once."""
        sinks = ticket.sinks or {}
        ticket.waiting = 1 + ticket.durable + len(sinks)
        if ticket.durable:
            self.store.after(ticket.settle)
        for sink, messages in sinks.items():
            self._call(sink, messages, ticket)
        ticket.settle()

    def _call(self, sink: Sink, messages: list[Publish], ticket: Ticket) -> None:
        try:
            result = sink(messages)
        except Exception as error:
            log.exception("sink failed")
            ticket.settle(error)
            return
        if result is None:
            ticket.settle()
        elif isinstance(result, asyncio.Future):
            result.add_done_callback(ticket.settle_future)
        else:
            task = self._supervisor.spawn(_wait(result), "mqtt-sink")
            task.add_done_callback(ticket.settle_future)

    def _publish_will(self, session: Session, will: WillMessage) -> None:
        message = will.message
        identity = session.identity
        if identity is not None and not self.allowed(identity, "publish", message.topic):
            self.counters.refused.inc("will_not_authorized")
            return
        if message.retain and not self.retained.fits(message):
            self.counters.dropped.inc("retained_quota")
            message.retain = False
        ticket = Ticket()
        self.route(message, None, ticket)
        self.finish(ticket)


async def _wait(result: Awaitable[Any]) -> None:
    await result


def _resolve(future: "asyncio.Future[None]", ticket: Ticket) -> None:
    if future.done():
        return
    if ticket.error is None:
        future.set_result(None)
    else:
        future.set_exception(NotKept(f"a message was not kept: {ticket.error}"))

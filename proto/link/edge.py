"""The edge's end of the link: runs the session machine, outbox and inbox over a Broker."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from proto import codec, topics
from proto.frames import Mark, Presence
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.errors import MalformedMessage, Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link import inbox, outbox
from proto.link.broker import Broker, Connection, Inbound, Refused, Will
from proto.link.edge_store import EdgeStore
from proto.link.feeds import EdgeOutlet
from proto.link.outbox import Outbox
from proto.link.replica import EdgeReplica
from proto.link.settings import LinkSettings
from proto.link.streams import EdgeStreams
from proto.session import Adopt, Announce, Deliver, Differ, Drop, EdgeState, Effect, Ended, Opened, Send, Settled
from proto.session_edge import NONCES, EdgeSession

SCHEMA = outbox.SCHEMA + inbox.SCHEMA
TICK_S = 0.25  # how late a timer of the session may be
CONNECT_TIMEOUT_S = 15.0
GOODBYE_S = 1.0
FAILED_PAUSE_S = 5.0  # after a failure that nobody expected, so that it does not repeat in a tight loop

log = Logger("link")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What people and health checks want to know of the link."""

    connected: bool  # a session is live
    epoch: int  # newest epoch committed here; 0 = never
    since_s: float  # clock.now_s() of the last change of ``connected``
    pending_states: int
    pending_messages: int
    pending_bytes: int
    fenced: bool  # this disk is a copy (or its name was taken over): it must join again
    last_error: str  # "" when the last attempt went well
    streams: str = ""  # why the cloud can open no streams here; "" when it can


class EdgeLink:
    """Run one node's link until cancelled. ``SCHEMA`` must be among the schemas given to ``Database.open``."""

    def __init__(
        self,
        node: str,
        broker: Broker,
        db: Database,
        replica: EdgeReplica,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> None:
        self.node = node
        self.settings = settings
        self.outbox = Outbox(settings, clock=clock, metrics=metrics, read=db.read)
        self.outbox.wake = self._wake
        self.session: EdgeSession | None = None
        self.streams: EdgeStreams | None = None  # set before ``run``: what serves logs, exec and the like
        self._broker = broker
        self._db = db
        self._replica = replica
        self._clock = clock
        self._rng = rng
        self._connection: Connection | None = None
        self._scope = asyncio.timeout(None)  # of the receiving; expired to leave a dead connection
        self._backoff = Backoff(settings.reconnect_base_s, settings.reconnect_cap_s, rng)
        self._pause_s = 0.0  # how long a fenced machine stays away
        self._since_s = clock.now_s()
        self._error = ""
        self._waking = False
        self._woken_s = float("-inf")
        self._streams_refused = ""
        self._frames = metrics.counter("skerry_link_frames_total", "Frames of the link.", ["direction"])
        self._refused = metrics.counter("skerry_link_refused_total", "Frames dropped, by reason.", ["reason"])
        self.store = EdgeStore(
            db, replica, self.outbox, clock=clock, rng=rng, refused=self._refused, perform=self._perform
        )
        metrics.gauge("skerry_link_up", "1 while a session with the cloud is live.", source=self._is_live)
        metrics.gauge("skerry_outbox_messages", "Messages that wait for the cloud.", source=self._waiting_messages)
        metrics.gauge("skerry_outbox_states", "Statuses that wait for the cloud.", source=self._waiting_states)

    async def run(self) -> None:
        """Connect, sync and keep syncing until cancelled."""
        identity = await self.store.tx(inbox.identity)
        outlet = EdgeOutlet(self.outbox, self._replica, self._marks)
        self.session = EdgeSession(identity, outlet, self.settings, self._rng)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_connected(self.session), name="link connection")
            self.store.start(group, self.session)
            group.create_task(self._timers(self.session), name="link timers")
            if self.streams is not None:
                group.create_task(self.streams.run(), name="link streams")

    def status(self) -> LinkStatus:
        """Return the present state; cheap, for the loop's thread."""
        session = self.session
        pending = self.outbox.pending()
        return LinkStatus(
            connected=self._is_live() > 0,
            epoch=session.identity.epoch if session is not None else 0,
            since_s=self._since_s,
            pending_states=pending.states,
            pending_messages=pending.messages,
            pending_bytes=pending.bytes,
            fenced=session is not None and bool(session.fenced_text),
            last_error=(session.fenced_text if session is not None else "")
            or self.outbox.closed
            or self._error
            or self.store.error,
            streams=self._streams_refused if self.streams is not None else "nothing here serves them",
        )

    def reconnect(self) -> None:
        """Drop the connection and connect again (a renewed certificate is used from then on)."""
        if self.session is not None and self._connection is not None:
            self._perform(self.session, [Drop("asked to reconnect")])

    # connection

    async def _keep_connected(self, session: EdgeSession) -> None:
        while True:
            try:
                await self._serve(session)
            except (Retryable, Terminal, TimeoutError) as error:
                text = str(error) or self._error or "the broker did not answer in time"
                if text != self._error:
                    log.warning("link down", node=self.node, error=text)
                self._error = text
            pause_s, self._pause_s = self._pause_s, 0.0
            await self._clock.sleep(max(pause_s, self._backoff.next_s()))

    async def _serve(self, session: EdgeSession) -> None:
        number = self._rng.randrange(1, NONCES)
        gone = codec.encode_presence(Presence(False, number, session.identity.epoch))
        will = Will(topics.presence(self.node), gone)
        keep_alive_s = max(5, int(self.settings.keep_alive_s))
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await self._broker.connect(self.node, will=will, keep_alive_s=keep_alive_s)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.subscribe(topics.down(self.node))
                await self._subscribe_streams(connection)
            self._connection = connection
            async with asyncio.timeout(None) as self._scope:
                self._perform(session, session.connected(number, self._clock.now_s()))
                while True:
                    message = await connection.receive()
                    self._received(session, message)
                    message.ack()
        except asyncio.CancelledError:
            await self._quietly(connection.publish(topics.presence(self.node), gone, retain=True))
            raise
        finally:
            self._connection = None
            if session.state is not EdgeState.DOWN:
                self._perform(session, session.lost())
            await self._quietly(connection.close())

    async def _quietly(self, work: Awaitable[None]) -> None:
        """Give a dying connection a moment; whatever it says no longer matters."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await work
        except (Retryable, Terminal, TimeoutError):
            return

    async def _subscribe_streams(self, connection: Connection) -> None:
        """A broker whose rights are of an older release refuses them: the rest of the link goes on."""
        if self.streams is None:
            return
        try:
            await connection.subscribe(topics.streams(self.node, "down"), 0)
            self._streams_refused = ""
        except Refused as error:
            self._streams_refused = f"the broker refuses streams: {error}"
            log.warning("no logs and exec from the cloud: the broker refuses streams", node=self.node, error=error)

    def _received(self, session: EdgeSession, message: Inbound) -> None:
        self._frames.inc("in")
        try:
            if topics.is_stream(message.topic):
                if self.streams is not None:
                    self.streams.received(message.topic, message.payload)
                return
            frame = codec.decode(message.payload, max_bytes=self.settings.frame_bytes)
            self._guarded(session, lambda: session.receive(frame, self._clock.now_s()))
        except MalformedMessage as error:
            self._refused.inc("malformed")
            log.debug("malformed frame", node=self.node, error=error)

    def _guarded(self, session: EdgeSession, step: Callable[[], list[Effect]]) -> None:
        """Do one step; what goes wrong in it ends the session, which is greeted anew, and not the daemon."""
        try:
            self._perform(session, step())
        except MalformedMessage:
            raise
        except Exception:
            log.exception("the session failed", node=self.node)
            self._refused.inc("session failed")
            self._perform(session, [Drop("the edge failed to serve this session", FAILED_PAUSE_S)])

    # effects

    def _perform(self, session: EdgeSession, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, Deliver):
                self.store.deliver(effect)
            elif isinstance(effect, Settled):
                self.store.settled(effect)
            elif isinstance(effect, Adopt):
                self.store.adopt(effect)
            elif isinstance(effect, Differ):
                self.store.differ(effect.keys)
            else:
                self._note(session, effect)

    def _note(self, session: EdgeSession, effect: Effect) -> None:
        if isinstance(effect, Announce) and self._connection is not None:
            payload = codec.encode_presence(effect.presence)
            self._connection.publish(topics.presence(self.node), payload, retain=True).add_done_callback(_quiet)
        elif isinstance(effect, Opened):
            self._since_s = self._clock.now_s()
            self._backoff.reset()
            self._error = ""
            log.info("link up", node=self.node, epoch=effect.epoch)
            if self.streams is not None and session.exchange is not None:
                self.streams.opened(self.node, session.exchange.tag, self._publish_stream)
        elif isinstance(effect, Ended):
            self._since_s = self._clock.now_s()
            self.store.ended()
            if self.streams is not None:
                self.streams.ended(effect.reason)
            self._error = effect.reason
            log.info("link down", node=self.node, epoch=effect.epoch, reason=effect.reason)
        elif isinstance(effect, Drop) and self._connection is not None:
            self._error, self._pause_s = effect.reason, effect.pause_s
            self._scope.reschedule(asyncio.get_running_loop().time())

    def _send(self, effect: Send) -> None:
        connection = self._connection
        if connection is None:
            return
        self._frames.inc("out")
        future = connection.publish(topics.up(self.node), codec.encode(effect.frame), qos=effect.qos)
        future.add_done_callback(self._puback if effect.qos else _quiet)

    def _publish_stream(self, topic: str, payload: bytes) -> None:
        if self._connection is not None:
            self._connection.publish(topic, payload, qos=0).add_done_callback(_quiet)

    def _puback(self, future: "asyncio.Future[None]") -> None:
        if future.cancelled() or future.exception() is not None:
            return
        if self.session is not None:
            self.session.broker_answered(self._clock.now_s())

    def _wake(self) -> None:
        """Something was committed: send it soon, together with what commits in the same moment."""
        if self._waking or self.session is None or self.session.exchange is None:
            return
        self._waking = True
        loop = asyncio.get_running_loop()
        if self._clock.now_s() - self._woken_s < self.settings.coalesce_s:
            loop.call_later(self.settings.coalesce_s, self._woken)
        else:
            loop.call_soon(self._woken)

    def _woken(self) -> None:
        self._waking = False
        self._woken_s = self._clock.now_s()
        if self.session is not None:
            self._guarded(self.session, partial(self.session.wake, self._woken_s))

    async def _timers(self, session: EdgeSession) -> None:
        while True:
            due = session.due_s()
            now = self._clock.now_s()
            await self._clock.sleep(TICK_S if due is None else min(max(due - now, 0.01), TICK_S))
            self._guarded(session, partial(session.tick, self._clock.now_s()))
            if self.streams is not None:
                self.streams.tick()

    def _marks(self) -> tuple[Mark, ...]:
        return self._db.read(inbox.marks)

    def _is_live(self) -> float:
        return float(self.session is not None and self.session.state is EdgeState.LIVE)

    def _waiting_messages(self) -> float:
        return self.outbox.pending().messages

    def _waiting_states(self) -> float:
        return self.outbox.pending().states


def _quiet(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()

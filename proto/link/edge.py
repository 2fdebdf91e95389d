"""The edge's end of the link: runs the session machine, outbox and inbox over a Broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from proto import codec, topics
from proto.frames import Mark, Presence
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage, Retryable, StorageFull, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link import inbox, outbox
from proto.link.broker import Broker, Connection, Will
from proto.link.feeds import EdgeOutlet
from proto.link.outbox import Outbox
from proto.link.replica import EdgeReplica
from proto.link.reserve import Reserve
from proto.link.settings import LinkSettings
from proto.session import Adopt, Announce, Deliver, Differ, Drop, EdgeState, Effect, Ended, Opened, Send, Settled
from proto.session_edge import NONCES, EdgeSession

SCHEMA = outbox.SCHEMA + inbox.SCHEMA
TICK_S = 0.25  # how late a timer of the session may be
UPKEEP_S = 2.0  # how soon a full disk that has room again is noticed
PRUNE_S = 60.0
APPLY_RETRY_CAP_S = 30.0  # a replica that keeps failing is asked this often
CONNECT_TIMEOUT_S = 15.0
GOODBYE_S = 1.0
DISK_FULL = "the disk is full: only what waits is sent, nothing new is taken"

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
        self._broker = broker
        self._db = db
        self._replica = replica
        self._clock = clock
        self._rng = rng
        self._reserve = Reserve(db.path.with_name(db.path.name + ".reserve"), settings.reserve_bytes)
        self._connection: Connection | None = None
        self._scope = asyncio.timeout(None)  # of the receiving; expired to leave a dead connection
        self._backoff = Backoff(settings.reconnect_base_s, settings.reconnect_cap_s, rng)
        self._pause_s = 0.0  # how long a fenced machine stays away
        self._since_s = clock.now_s()
        self._error = ""
        self._waking = False
        self._woken_s = float("-inf")
        self._inbound: list[Deliver] = []
        self._settled: list[Settled] = []
        self._mark = 0  # messages up to here are committed in the cloud and may be forgotten
        self._adopting: Adopt | None = None
        self._differing: list[str] = []
        self._work = asyncio.Event()
        self._apply_work = asyncio.Event()
        self._frames = metrics.counter("skerry_link_frames_total", "Frames of the link.", ["direction"])
        self._refused = metrics.counter("skerry_link_refused_total", "Frames dropped, by reason.", ["reason"])
        metrics.gauge("skerry_link_up", "1 while a session with the cloud is live.", source=self._is_live)
        metrics.gauge("skerry_outbox_messages", "Messages that wait for the cloud.", source=self._waiting_messages)
        metrics.gauge("skerry_outbox_states", "Statuses that wait for the cloud.", source=self._waiting_states)

    async def run(self) -> None:
        """Connect, sync and keep syncing until cancelled."""
        identity = await self._tx(inbox.identity)
        outlet = EdgeOutlet(self.outbox, self._replica, self._marks)
        self.session = EdgeSession(identity, outlet, self.settings, self._rng)
        if not self._reserve.restore():
            self.outbox.closed = DISK_FULL
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_connected(self.session), name="link connection")
            group.create_task(self._apply(self.session), name="link inbound")
            group.create_task(self._store(self.session), name="link outbox")
            group.create_task(self._timers(self.session), name="link timers")
            group.create_task(self._upkeep(), name="link upkeep")

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
            last_error=(session.fenced_text if session is not None else "") or self.outbox.closed or self._error,
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
            self._connection = connection
            async with asyncio.timeout(None) as self._scope:
                self._perform(session, session.connected(number, self._clock.now_s()))
                while True:
                    message = await connection.receive()
                    self._received(session, message.payload)
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

    def _received(self, session: EdgeSession, payload: bytes) -> None:
        self._frames.inc("in")
        try:
            frame = codec.decode(payload, max_bytes=self.settings.frame_bytes)
            effects = session.receive(frame, self._clock.now_s())
        except MalformedMessage as error:
            self._refused.inc("malformed")
            log.debug("malformed frame", node=self.node, error=error)
            return
        self._perform(session, effects)

    # effects

    def _perform(self, session: EdgeSession, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, Deliver):
                self._inbound.append(effect)
                self._apply_work.set()
            elif isinstance(effect, Settled):
                self._settled.append(effect)
                self._work.set()
            elif isinstance(effect, Adopt):
                self._adopting = effect
                self._work.set()
            elif isinstance(effect, Differ):
                self._differing += effect.keys
                self._work.set()
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
        elif isinstance(effect, Ended):
            self._since_s = self._clock.now_s()
            self._inbound.clear()
            self._error = effect.reason
            log.info("link down", node=self.node, epoch=effect.epoch, reason=effect.reason)
        elif isinstance(effect, Drop) and self._connection is not None:
            self._error, self._pause_s = effect.reason, effect.pause_s
            self._scope.reschedule(asyncio.get_running_loop().time())
        del session

    def _send(self, effect: Send) -> None:
        connection = self._connection
        if connection is None:
            return
        self._frames.inc("out")
        future = connection.publish(topics.up(self.node), codec.encode(effect.frame), qos=effect.qos)
        future.add_done_callback(self._puback if effect.qos else _quiet)

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
            self._perform(self.session, self.session.wake(self._woken_s))

    # work on the database

    async def _apply(self, session: EdgeSession) -> None:
        """Apply what the cloud sent, as much as there is in one transaction."""
        backoff = Backoff(0.2, APPLY_RETRY_CAP_S, self._rng)
        while True:
            await self._apply_work.wait()
            self._apply_work.clear()
            while self._inbound:
                batch, self._inbound = self._inbound, []
                await self._apply_batch(session, batch, backoff)

    async def _apply_batch(self, session: EdgeSession, batch: list[Deliver], backoff: Backoff) -> None:
        epoch = batch[-1].epoch
        batch = [deliver for deliver in batch if deliver.epoch == epoch]
        while session.exchange is not None and session.exchange.epoch == epoch:
            try:
                await self._tx(lambda tx: apply(tx, self._replica, batch))
            except Exception as error:  # one bad object must not end the link; nothing is acknowledged
                if not isinstance(error, Retryable):
                    log.exception("applying what the cloud sent failed", node=self.node)
                self._refused.inc("apply failed")
                await self._clock.sleep(backoff.next_s())
                continue
            backoff.reset()
            state_seq = max(deliver.state_seq for deliver in batch)
            messages = [m for deliver in batch for m in deliver.messages]
            self._perform(session, session.committed(epoch, state_seq, messages, self._clock.now_s()))
            return

    async def _store(self, session: EdgeSession) -> None:
        """Commit granted epochs, acknowledgements and repairs, as much as there is in one transaction."""
        backoff = Backoff(0.2, APPLY_RETRY_CAP_S, self._rng)
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._store_once(session)
            except (Retryable, Terminal) as error:
                self._error = str(error)
                log.warning("storing acknowledgements failed", node=self.node, error=error)
                self._work.set()
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _store_once(self, session: EdgeSession) -> None:
        adopting, settled, keys = self._adopting, self._settled[:], self._differing[:]
        statuses = self._replica.statuses() if keys else {}

        ends = [flight.end for effect in settled for flight in effect.flights if flight.token is None]
        mark = max([self._mark, *ends, adopting.welcome.mark if adopting is not None else 0])

        def work(tx: Tx) -> bool:
            if adopting is not None:
                inbox.adopt(tx, adopting.epoch, adopting.welcome)
            left = settle(tx, self.outbox, settled, mark)
            repair(tx, self.outbox, keys, statuses)
            return left

        left = await self._tx(work)
        self._mark = mark if left else 0
        if left:
            self._work.set()
        del self._settled[: len(settled)], self._differing[: len(keys)]
        if adopting is not None and adopting is self._adopting:
            self._adopting = None
            self._perform(session, session.adopted(self._clock.now_s()))

    async def _tx(self, fn: Callable[[Tx], T]) -> T:
        """Commit ``fn``; a full disk gets the reserve first (LINK-18)."""
        try:
            return await self._db.tx(fn)
        except StorageFull:
            if not self._reserve.release():
                raise
            self.outbox.closed = DISK_FULL
            return await self._db.tx(fn)

    async def _upkeep(self) -> None:
        pruned_s = self._clock.now_s()
        while True:
            await self._clock.sleep(UPKEEP_S)
            if self.outbox.closed:
                await asyncio.to_thread(self._reserve.shrink, self._db.path)
            if self._reserve.restore() and self.outbox.closed:
                self.outbox.closed = ""
                log.info("disk has room again: reserve restored", node=self.node)
            if self._clock.now_s() - pruned_s >= PRUNE_S:
                pruned_s = self._clock.now_s()
                try:
                    await self._tx(self.outbox.prune_age)
                except (Retryable, Terminal) as error:
                    log.warning("pruning the outbox failed", node=self.node, error=error)

    async def _timers(self, session: EdgeSession) -> None:
        while True:
            due = session.due_s()
            now = self._clock.now_s()
            await self._clock.sleep(TICK_S if due is None else min(max(due - now, 0.01), TICK_S))
            self._perform(session, session.tick(self._clock.now_s()))

    def _marks(self) -> tuple[Mark, ...]:
        return self._db.read(inbox.marks)

    def _is_live(self) -> float:
        return float(self.session is not None and self.session.state is EdgeState.LIVE)

    def _waiting_messages(self) -> float:
        return self.outbox.pending().messages

    def _waiting_states(self) -> float:
        return self.outbox.pending().states


def apply(tx: Tx, replica: EdgeReplica, batch: list[Deliver]) -> None:
    """Apply what was received, in order, with the marks of messages in the same transaction (LINK-14, LINK-15)."""
    changes = [change for deliver in batch for change in deliver.changes]
    if changes:
        replica.apply(tx, changes)
    for deliver in batch:
        for messages in deliver.messages:
            rows = inbox.fresh(tx, messages, deliver.epoch)
            if rows:
                replica.apply_messages(tx, rows)


def settle(tx: Tx, box: Outbox, settled: list[Settled], mark: int = 0) -> bool:
    """Forget what the cloud has on disk: these flights, and messages up to ``mark``; return whether some are left."""
    flights = [flight for effect in settled for flight in effect.flights]
    states = [row.token for flight in flights for row in flight.token or ()]
    mark = max([mark, *(flight.end for flight in flights if flight.token is None)])
    return box.settle(tx, states, mark)


def repair(tx: Tx, box: Outbox, keys: list[str], statuses: Mapping[str, bytes]) -> None:
    """Send statuses again that the cloud holds differently."""
    for key in keys:
        if key in statuses:
            box.repair(tx, key, statuses[key])


def _quiet(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()

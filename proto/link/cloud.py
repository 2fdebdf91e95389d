"""The cloud's end of all links: one session machine per node over one Broker connection."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proto import codec, topics
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.broker import Broker, Connection, Inbound, Refused
from proto.link.feeds import CloudOutlet
from proto.link.log import CloudLog
from proto.link.peers import Jobs, Peer, size
from proto.link.replica import CloudReplica
from proto.link.settings import LinkSettings
from proto.link.streams import CloudStreams
from proto.session import (
    Alarm,
    CloudState,
    Confirm,
    Deliver,
    Differ,
    Effect,
    Ended,
    Judge,
    Opened,
    Send,
    Settled,
)
from proto.session_cloud import CloudSession

TICK_S = 0.25  # how late a timer of a session may be
ALARM_PERIOD_S = 60.0  # a copy that keeps knocking is told to people this often
BACKLOG_WINDOWS = 2  # what a node that ignores our window may pile up here, in windows
MAX_UNSENT_BYTES = 64 << 20  # frames without PUBACK, of all nodes together; beyond it frames wait for their resend
POKES_PER_S = 300.0  # how fast a restarted cloud asks edges to say hello again
CONNECT_TIMEOUT_S = 15.0
MIN_KEEP_ALIVE_S = 5  # of MQTT: a half-open line to the broker is noticed by the client's own ping
PING_SHARE = 0.75  # the client gives up after two of its pings' periods: that shall be 1.5 of the link's keep-alive
RETRY_CAP_S = 5.0

log_ = Logger("link")


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One node as the cloud sees it; ``*_s`` are clock.now_s()."""

    epoch: int
    connected: bool
    since_s: float
    last_seen_s: float


class CloudLink:
    """Serve every node's link until cancelled."""

    def __init__(
        self,
        broker: Broker,
        log: CloudLog,
        replica: CloudReplica,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        client_id: str = "cloudcore",
    ) -> None:
        self.settings = settings
        self.streams = CloudStreams(settings, clock=clock, rng=rng, metrics=metrics)
        self._broker = broker
        self._log = log
        self._replica = replica
        self._clock = clock
        self._rng = rng
        self._client_id = client_id
        self._peers: dict[str, Peer] = {}
        self._connection: Connection | None = None
        self._unsent_bytes = 0
        self._waking: dict[str, Peer] = {}
        self._frames = metrics.counter("skerry_link_frames_total", "Frames of all links.", ["direction"])
        self._refused = metrics.counter(
            "skerry_link_refused_total", "Frames or hellos not taken, by reason.", ["reason"]
        )
        self._lost_rows = metrics.counter(
            "skerry_link_lost_rows_total", "Messages that edges no longer hold for a restored cloud."
        )
        self._jobs = Jobs(
            log, replica, clock=clock, perform=self._perform, refused=self._refused, lost_rows=self._lost_rows
        )
        metrics.gauge("skerry_link_sessions", "Live sessions.", source=self._live)

    async def run(self) -> None:
        """Connect to the broker and serve until cancelled; reconnects by itself."""
        self._jobs.cloud = await self._log.incarnation()
        async with asyncio.TaskGroup() as group:
            self._jobs.start(group, self.settings.hello_concurrency)
            group.create_task(self._timers(), name="link timers")
            group.create_task(self._keep_connected(), name="link connection")

    def changed(self, node: str, key: str) -> None:
        """Object ``key`` of ``node`` changed or left its scope; the newest is sent if the node is connected. Cheap."""
        peer = self._peers.get(node)
        if peer is None or peer.session.state is not CloudState.LIVE:
            return  # the comparison at its next hello finds it
        peer.outlet.dirty[key] = None
        self._wake(peer)

    async def send_message(self, node: str, kind: str, body: bytes) -> int:
        """Store a message for ``node`` (durable on return) and return its seq. Raises StorageFull, Retryable."""
        if len(body) > self.settings.object_bytes:
            raise Terminal(f"a message of {len(body)} bytes is larger than {self.settings.object_bytes}")
        row = await self._log.append(node, kind, body, quota_bytes=self.settings.command_quota_bytes)
        peer = self._peers.get(node)
        if peer is not None:
            peer.outlet.starving = True
            self._wake(peer)
        return row.seq

    def sessions(self) -> dict[str, SessionInfo]:
        """Return every node seen since start."""
        return {
            node: SessionInfo(
                peer.session.epoch, peer.session.state is CloudState.LIVE, peer.since_s, peer.session.heard_s
            )
            for node, peer in self._peers.items()
        }

    async def kick(self, node: str, reason: str) -> None:
        """End the node's session now; it may say hello again if the broker still lets it in."""
        peer = self._peers.get(node)
        if peer is not None:
            self._perform(peer, peer.session.kick(reason))

    # connection

    async def _keep_connected(self) -> None:
        backoff = Backoff(self.settings.reconnect_base_s, self.settings.reconnect_cap_s, self._rng)
        told = ""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    keep_alive_s = max(MIN_KEEP_ALIVE_S, int(self.settings.keep_alive_s * PING_SHARE))
                    connection = await self._broker.connect(self._client_id, keep_alive_s=keep_alive_s)
                    for topic_filter in topics.CLOUD_FILTERS:
                        await connection.subscribe(topic_filter)
                    await self._subscribe_streams(connection)
                self._connection, self._unsent_bytes = connection, 0
                self.streams.reconnected(self._publish_stream)
                backoff.reset()
                told = ""
                while True:
                    self._received(await connection.receive())
            except (Retryable, Terminal, TimeoutError) as error:
                text = str(error) or "the broker did not answer in time"
                if text != told:
                    log_.warning("broker lost", error=text)
                    told = text
            finally:
                self._connection = None
                self.streams.disconnected()
            await self._clock.sleep(backoff.next_s())

    async def _subscribe_streams(self, connection: Connection) -> None:
        """A broker whose rights are of an older release refuses them: the rest of the link goes on."""
        try:
            await connection.subscribe(topics.STREAMS_UP_FILTER, 0)
            self.streams.unavailable = ""
        except Refused as error:
            self.streams.unavailable = f"the broker refuses streams: {error}"
            log_.warning("no logs and exec: the broker refuses streams", error=error)

    def _received(self, message: Inbound) -> None:
        message.ack()
        self._frames.inc("in")
        try:
            if topics.is_stream(message.topic):
                self.streams.received(message.topic, message.payload)
                return
            node, leg = topics.parse(message.topic)
            peer = self._peer(node)
            if peer is None:
                return
            now_s = self._clock.now_s()
            if leg == "presence":
                if message.payload:
                    presence = codec.decode_presence(message.payload)
                    peer.session.spread_s = len(self._peers) / POKES_PER_S
                    self._guarded(peer, lambda: peer.session.presence(presence, now_s))
                return
            if peer.backlog_bytes > BACKLOG_WINDOWS * self.settings.window_bytes:
                self._refused.inc("backlog")
                return
            frame = codec.decode(message.payload, max_bytes=self.settings.frame_bytes)
            self._guarded(peer, lambda: peer.session.receive(frame, now_s))
        except MalformedMessage as error:
            self._refused.inc("malformed")
            log_.debug("malformed frame", topic=message.topic[:80], error=error)

    def _peer(self, node: str) -> Peer | None:
        peer = self._peers.get(node)
        if peer is None:
            if len(self._peers) >= self.settings.max_nodes:
                self._refused.inc("too many nodes")
                return None
            outlet = CloudOutlet(node, self._replica)
            session = CloudSession(node, self._jobs.cloud, outlet, self.settings, self._rng)
            backoff = Backoff(0.2, RETRY_CAP_S, self._rng)
            peer = self._peers[node] = Peer(node, session, outlet, backoff, self._clock.now_s())
        return peer

    # effects

    def _guarded(self, peer: Peer, step: Callable[[], list[Effect]]) -> None:
        """Do one step for a node; what goes wrong in it ends that node's session, which is greeted anew, and no other's."""
        try:
            self._perform(peer, step())
        except MalformedMessage:
            raise
        except Exception:
            log_.exception("a session failed", node=peer.node)
            self._refused.inc("session failed")
            self._perform(peer, peer.session.kick("the cloud failed to serve this session"))

    def _perform(self, peer: Peer, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(peer, effect)
            elif isinstance(effect, Deliver):
                self._deliver(peer, effect)
            elif isinstance(effect, Settled):
                self._settle(peer, effect)
            elif isinstance(effect, Differ):
                peer.outlet.dirty.update(dict.fromkeys(effect.keys))
                self._wake(peer)
            elif isinstance(effect, Judge):
                peer.hello = effect.hello
                self._jobs.queue(peer, "judge")
            elif isinstance(effect, Confirm):
                peer.confirming.append(effect)
                self._jobs.queue(peer, "confirm")
            else:
                self._note(peer, effect)
        if peer.outlet.starving and peer.session.state is CloudState.LIVE:
            self._jobs.queue(peer, "fetch")
        due = peer.session.due_s()
        peer.due_s = float("inf") if due is None else due

    def _note(self, peer: Peer, effect: Effect) -> None:
        now_s = self._clock.now_s()
        if isinstance(effect, Opened | Ended):
            peer.since_s = now_s
            if isinstance(effect, Ended):
                peer.states.clear()
                peer.messages.clear()
                peer.backlog_bytes = 0
                self.streams.ended(peer.node, effect.reason)
            else:
                self.streams.opened(peer.node, peer.session.tag, self._publish_stream)
            peer.tell.append(effect)
            self._jobs.queue(peer, "tell")
        elif isinstance(effect, Alarm):
            self._refused.inc("fenced")
            if now_s - peer.alarmed_s >= ALARM_PERIOD_S:
                peer.alarmed_s = now_s
                log_.warning("node fenced", node=peer.node, reason=effect.text)
                peer.tell.append(effect)
                self._jobs.queue(peer, "tell")

    def _send(self, peer: Peer, effect: Send) -> None:
        connection = self._connection
        if connection is None:
            return
        payload = codec.encode(effect.frame)
        size = len(payload)
        if effect.qos and self._unsent_bytes > MAX_UNSENT_BYTES:
            self._refused.inc("congested")
            return
        self._frames.inc("out")
        future = connection.publish(topics.down(peer.node), payload, qos=effect.qos)
        self._unsent_bytes += size

        def done(settled: "asyncio.Future[None]") -> None:
            if self._connection is connection:
                self._unsent_bytes -= size
            if not settled.cancelled():
                settled.exception()

        future.add_done_callback(done)

    def _publish_stream(self, topic: str, payload: bytes) -> None:
        if self._connection is not None:
            self._connection.publish(topic, payload, qos=0).add_done_callback(_quiet)

    def _deliver(self, peer: Peer, effect: Deliver) -> None:
        peer.backlog_bytes += size(effect)
        if effect.changes:
            peer.states.append(effect)
            self._jobs.queue(peer, "states")
        if effect.messages:
            peer.messages.append(effect)
            self._jobs.queue(peer, "messages")

    def _settle(self, peer: Peer, effect: Settled) -> None:
        for flight in effect.flights:
            if flight.token is None:
                peer.acks[flight.lineage] = max(flight.end, peer.acks.get(flight.lineage, 0))
                self._jobs.queue(peer, "ack")

    def _wake(self, peer: Peer) -> None:
        if not self._waking:
            asyncio.get_running_loop().call_soon(self._woken)
        self._waking[peer.node] = peer

    def _woken(self) -> None:
        peers, self._waking = list(self._waking.values()), {}
        for peer in peers:
            self._guarded(peer, partial(peer.session.wake, self._clock.now_s()))

    async def _timers(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.now_s()
            for peer in list(self._peers.values()):
                if peer.due_s <= now_s:
                    self._guarded(peer, partial(peer.session.tick, now_s))
                if peer.outlet.dirty and peer.session.state is CloudState.LIVE:
                    self._guarded(peer, partial(peer.session.wake, now_s))
            self._jobs.retry(now_s)
            self.streams.tick()

    def _live(self) -> float:
        return sum(peer.session.state is CloudState.LIVE for peer in self._peers.values())


def _quiet(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()

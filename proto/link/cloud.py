"""The cloud's end of all links: one session machine per node over one Broker connection."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from proto import codec, digest, gap, topics
from proto.frames import GAP, Hello, Mark
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.broker import Broker, Connection, Inbound
from proto.link.feeds import CloudOutlet
from proto.link.log import CloudLog
from proto.link.replica import CloudReplica, MessageRow
from proto.link.settings import LinkSettings
from proto.session import (
    Alarm,
    CloudState,
    Confirm,
    Deliver,
    Differ,
    Effect,
    Ended,
    Fenced,
    Judge,
    Opened,
    Send,
    Settled,
    confirm,
    judge,
)
from proto.session_cloud import CloudSession

TICK_S = 0.25  # how late a timer of a session may be
ALARM_PERIOD_S = 60.0  # a copy that keeps knocking is told to people this often
BUSY_RETRY_S = 1.0
FETCH_ROWS, FETCH_BYTES = 512, 256 << 10  # of waiting messages, at a time and node
BACKLOG_WINDOWS = 2  # what a node that ignores our window may pile up here, in windows
MAX_UNSENT_BYTES = 64 << 20  # frames without PUBACK, of all nodes together; beyond it frames wait for their resend
POKES_PER_S = 300.0  # how fast a restarted cloud asks edges to say hello again
CONNECT_TIMEOUT_S = 15.0
MIN_KEEP_ALIVE_S = 5  # of MQTT: a half-open line to the broker is noticed by the client's own ping
RETRY_CAP_S = 5.0

log_ = Logger("link")


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One node as the cloud sees it; ``*_s`` are clock.now_s()."""

    epoch: int
    connected: bool
    since_s: float
    last_seen_s: float


@dataclass(slots=True)
class _Peer:
    """One node: its machine, and what waits to be done for it."""

    node: str
    session: CloudSession
    outlet: CloudOutlet
    backoff: Backoff
    since_s: float
    due_s: float = 0.0
    alarmed_s: float = float("-inf")
    hello: Hello | None = None
    confirming: list[Confirm] = field(default_factory=list)
    states: list[Deliver] = field(default_factory=list)
    messages: list[Deliver] = field(default_factory=list)
    backlog_bytes: int = 0
    acks: dict[str, int] = field(default_factory=dict)
    tell: deque[Opened | Ended | Alarm] = field(default_factory=deque)
    queued: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)


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
        self._broker = broker
        self._log = log
        self._replica = replica
        self._clock = clock
        self._rng = rng
        self._client_id = client_id
        self._cloud = ""
        self._peers: dict[str, _Peer] = {}
        self._connection: Connection | None = None
        self._unsent_bytes = 0
        self._hellos: asyncio.Queue[tuple[_Peer, str]] = asyncio.Queue()
        self._jobs: asyncio.Queue[tuple[_Peer, str]] = asyncio.Queue()
        self._later: list[tuple[float, _Peer, str]] = []
        self._waking: dict[str, _Peer] = {}
        self._work = {
            "judge": self._judge,
            "confirm": self._confirm,
            "states": self._apply_states,
            "messages": self._apply_messages,
            "ack": self._ack,
            "fetch": self._fetch,
            "tell": self._tell,
        }
        self._frames = metrics.counter("skerry_link_frames_total", "Frames of all links.", ["direction"])
        self._refused = metrics.counter(
            "skerry_link_refused_total", "Frames or hellos not taken, by reason.", ["reason"]
        )
        self._lost_rows = metrics.counter(
            "skerry_link_lost_rows_total", "Messages that edges no longer hold for a restored cloud."
        )
        metrics.gauge("skerry_link_sessions", "Live sessions.", source=self._live)

    async def run(self) -> None:
        """Connect to the broker and serve until cancelled; reconnects by itself."""
        self._cloud = await self._log.incarnation()
        async with asyncio.TaskGroup() as group:
            for number in range(self.settings.hello_concurrency):
                group.create_task(self._worker(self._hellos), name=f"link hello {number}")
                group.create_task(self._worker(self._jobs), name=f"link work {number}")
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
                    keep_alive_s = max(MIN_KEEP_ALIVE_S, int(self.settings.keep_alive_s))
                    connection = await self._broker.connect(self._client_id, keep_alive_s=keep_alive_s)
                    for topic_filter in topics.CLOUD_FILTERS:
                        await connection.subscribe(topic_filter)
                self._connection, self._unsent_bytes = connection, 0
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
            await self._clock.sleep(backoff.next_s())

    def _received(self, message: Inbound) -> None:
        message.ack()
        self._frames.inc("in")
        try:
            node, leg = topics.parse(message.topic)
            peer = self._peer(node)
            if peer is None:
                return
            now_s = self._clock.now_s()
            if leg == "presence":
                if message.payload:
                    presence = codec.decode_presence(message.payload)
                    peer.session.spread_s = len(self._peers) / POKES_PER_S
                    self._perform(peer, peer.session.presence(presence, now_s))
                return
            if peer.backlog_bytes > BACKLOG_WINDOWS * self.settings.window_bytes:
                self._refused.inc("backlog")
                return
            frame = codec.decode(message.payload, max_bytes=self.settings.frame_bytes)
            self._perform(peer, peer.session.receive(frame, now_s))
        except MalformedMessage as error:
            self._refused.inc("malformed")
            log_.debug("malformed frame", topic=message.topic[:80], error=error)

    def _peer(self, node: str) -> _Peer | None:
        peer = self._peers.get(node)
        if peer is None:
            if len(self._peers) >= self.settings.max_nodes:
                self._refused.inc("too many nodes")
                return None
            outlet = CloudOutlet(node, self._replica)
            session = CloudSession(node, self._cloud, outlet, self.settings, self._rng)
            backoff = Backoff(0.2, RETRY_CAP_S, self._rng)
            peer = self._peers[node] = _Peer(node, session, outlet, backoff, self._clock.now_s())
        return peer

    # effects

    def _perform(self, peer: _Peer, effects: list[Effect]) -> None:
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
                self._queue(peer, "judge")
            elif isinstance(effect, Confirm):
                peer.confirming.append(effect)
                self._queue(peer, "confirm")
            else:
                self._note(peer, effect)
        if peer.outlet.starving and peer.session.state is CloudState.LIVE:
            self._queue(peer, "fetch")
        due = peer.session.due_s()
        peer.due_s = float("inf") if due is None else due

    def _note(self, peer: _Peer, effect: Effect) -> None:
        now_s = self._clock.now_s()
        if isinstance(effect, Opened | Ended):
            peer.since_s = now_s
            if isinstance(effect, Ended):
                peer.states.clear()
                peer.messages.clear()
                peer.backlog_bytes = 0
            peer.tell.append(effect)
            self._queue(peer, "tell")
        elif isinstance(effect, Alarm):
            self._refused.inc("fenced")
            if now_s - peer.alarmed_s >= ALARM_PERIOD_S:
                peer.alarmed_s = now_s
                log_.warning("node fenced", node=peer.node, reason=effect.text)
                peer.tell.append(effect)
                self._queue(peer, "tell")

    def _send(self, peer: _Peer, effect: Send) -> None:
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

    def _deliver(self, peer: _Peer, effect: Deliver) -> None:
        peer.backlog_bytes += _size(effect)
        if effect.changes:
            peer.states.append(effect)
            self._queue(peer, "states")
        if effect.messages:
            peer.messages.append(effect)
            self._queue(peer, "messages")

    def _settle(self, peer: _Peer, effect: Settled) -> None:
        for flight in effect.flights:
            if flight.token is None:
                peer.acks[flight.lineage] = max(flight.end, peer.acks.get(flight.lineage, 0))
                self._queue(peer, "ack")

    def _wake(self, peer: _Peer) -> None:
        if not self._waking:
            asyncio.get_running_loop().call_soon(self._woken)
        self._waking[peer.node] = peer

    def _woken(self) -> None:
        peers, self._waking = list(self._waking.values()), {}
        for peer in peers:
            self._perform(peer, peer.session.wake(self._clock.now_s()))

    # jobs: one at a time for each node and kind, a bounded number at once

    def _queue(self, peer: _Peer, job: str) -> None:
        if job not in peer.queued:
            peer.queued.add(job)
            if job not in peer.running:
                (self._hellos if job == "judge" else self._jobs).put_nowait((peer, job))

    async def _worker(self, queue: "asyncio.Queue[tuple[_Peer, str]]") -> None:
        while True:
            peer, job = await queue.get()
            peer.queued.discard(job)
            peer.running.add(job)
            try:
                await self._work[job](peer)
                peer.backoff.reset()
            except Exception as error:  # one node's trouble must not end the others' links
                if not isinstance(error, Retryable):
                    log_.exception("work for a node failed", node=peer.node, job=job)
                self._refused.inc(f"{job} failed")
                self._later.append((self._clock.now_s() + peer.backoff.next_s(), peer, job))
            finally:
                peer.running.discard(job)
                if job in peer.queued:
                    queue.put_nowait((peer, job))

    async def _judge(self, peer: _Peer) -> None:
        hello, session = peer.hello, peer.session
        if hello is None:
            return
        try:
            record = await self._log.update(peer.node, lambda record: judge(record, hello, self._cloud))
            mark = await self._mark(peer.node, hello)
            bases = await self._bases(peer.node, hello)
        except Fenced as error:
            self._perform(peer, session.fenced(hello, str(error)))
            return
        except Exception:
            if peer.hello is hello:
                peer.hello = None  # the edge asks again; this hello is answered
            self._perform(peer, session.failed(hello, BUSY_RETRY_S))
            raise
        root = digest.root(self._replica.status_digests(peer.node))
        self._perform(peer, session.granted(hello, record.granted, mark, bases, root, self._clock.now_s()))

    async def _mark(self, node: str, hello: Hello) -> int:
        """Return where the edge's messages continue; rows that only a lost cloud knew become a gap (LINK-19)."""
        mark = await self._log.mark(node, hello.incarnation)
        if hello.floor > mark:
            self._lost_rows.inc(by=hello.floor - mark)
            body = gap.encode(gap.Gap(mark + 1, hello.floor, "restored"))
            await self._replica.apply_messages(node, hello.incarnation, [MessageRow(hello.floor, GAP, body)])
            mark = hello.floor
        return mark

    async def _bases(self, node: str, hello: Hello) -> list[Mark]:
        bases = await self._log.bases(node)
        for mark in hello.marks:
            if bases.get(mark.lineage, mark.seq) < mark.seq:
                await self._log.ack(node, mark.lineage, mark.seq)
                bases[mark.lineage] = mark.seq
        return [Mark(*item) for item in bases.items()]

    async def _confirm(self, peer: _Peer) -> None:
        while peer.confirming:
            wanted = peer.confirming[-1]
            await self._log.update(peer.node, partial(confirm, incarnation=wanted.incarnation, epoch=wanted.epoch))
            peer.confirming = peer.confirming[peer.confirming.index(wanted) + 1 :]
            self._perform(peer, peer.session.confirmed(wanted.epoch, self._clock.now_s()))

    async def _apply_states(self, peer: _Peer) -> None:
        batch = [deliver for deliver in peer.states if deliver.epoch == peer.session.epoch]
        if batch:
            newest = {change.key: change for deliver in batch for change in deliver.changes}
            await self._replica.apply_statuses(peer.node, list(newest.values()))
            self._applied(peer, peer.states, batch, batch[-1].state_seq)

    async def _apply_messages(self, peer: _Peer) -> None:
        batch = [deliver for deliver in peer.messages if deliver.epoch == peer.session.epoch]
        if batch:
            rows = [row for deliver in batch for messages in deliver.messages for row in messages.rows]
            await self._replica.apply_messages(peer.node, peer.session.incarnation, rows)
            self._applied(peer, peer.messages, batch, 0)

    def _applied(self, peer: _Peer, queue: list[Deliver], batch: list[Deliver], state_seq: int) -> None:
        if queue and queue[0] is batch[0]:  # else the session ended meanwhile and the queue with it
            del queue[: len(batch)]
            peer.backlog_bytes -= sum(map(_size, batch))
        messages = [m for deliver in batch for m in deliver.messages]
        self._perform(peer, peer.session.committed(batch[0].epoch, state_seq, messages, self._clock.now_s()))

    async def _ack(self, peer: _Peer) -> None:
        for cloud, seq in list(peer.acks.items()):
            await self._log.ack(peer.node, cloud, seq)
            if peer.acks.get(cloud) == seq:
                del peer.acks[cloud]

    async def _fetch(self, peer: _Peer) -> None:
        outlet = peer.outlet
        if not outlet.starving or peer.session.state is not CloudState.LIVE:
            return
        outlet.starving = False
        epoch = peer.session.epoch
        try:
            rows = await self._log.pending(peer.node, outlet.position, limit=FETCH_ROWS, max_bytes=FETCH_BYTES)
        except Exception:
            outlet.starving = True
            raise
        if rows and peer.session.epoch == epoch:
            outlet.offer(rows)
            self._perform(peer, peer.session.wake(self._clock.now_s()))

    async def _tell(self, peer: _Peer) -> None:
        while peer.tell:
            event = peer.tell[0]
            if isinstance(event, Opened):
                log_.info("node connected", node=peer.node, epoch=event.epoch)
                await self._replica.connected(peer.node, event.epoch)
            elif isinstance(event, Ended):
                log_.info("node lost", node=peer.node, epoch=event.epoch, reason=event.reason)
                await self._replica.lost(peer.node, event.epoch)
            else:
                await self._replica.fenced(peer.node, event.text)
            peer.tell.popleft()

    async def _timers(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.now_s()
            for peer in list(self._peers.values()):
                if peer.due_s <= now_s:
                    self._perform(peer, peer.session.tick(now_s))
                if peer.outlet.dirty and peer.session.state is CloudState.LIVE:
                    self._perform(peer, peer.session.wake(now_s))
            later, self._later = self._later, []
            for item in later:
                if item[0] <= now_s:
                    self._queue(item[1], item[2])
                else:
                    self._later.append(item)

    def _live(self) -> float:
        return sum(peer.session.state is CloudState.LIVE for peer in self._peers.values())


def _size(effect: Deliver) -> int:
    states = sum(len(change.body or b"") + 64 for change in effect.changes)
    return states + sum(len(row.body) + 64 for messages in effect.messages for row in messages.rows)

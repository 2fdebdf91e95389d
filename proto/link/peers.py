"""What waits to be done for each node, and the workers that do it: a bounded number at once, one at a time per node and kind."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from proto import digest, gap
from proto.frames import GAP, Hello, Mark
from proto.kit.backoff import Backoff
from proto.kit.clock import Clock
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.kit.metrics import Counter
from proto.link.feeds import CloudOutlet
from proto.link.log import CloudLog
from proto.link.replica import CloudReplica, MessageRow
from proto.session import Alarm, CloudState, Confirm, Deliver, Effect, Ended, Fenced, Opened, confirm, judge
from proto.session_cloud import CloudSession

BUSY_RETRY_S = 1.0
FETCH_ROWS, FETCH_BYTES = 512, 256 << 10  # of waiting messages, at a time and node

log = Logger("link")


@dataclass(slots=True)
class Peer:
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


class Jobs:
    """The work of all nodes. ``perform`` is told the effects of what was done."""

    def __init__(
        self,
        cloud_log: CloudLog,
        replica: CloudReplica,
        *,
        clock: Clock,
        perform: Callable[[Peer, list[Effect]], None],
        refused: Counter,
        lost_rows: Counter,
    ) -> None:
        self.cloud = ""  # this cloud's incarnation, known before the first job
        self._log = cloud_log
        self._replica = replica
        self._clock = clock
        self._perform = perform
        self._refused = refused
        self._lost_rows = lost_rows
        self._hellos: asyncio.Queue[tuple[Peer, str]] = asyncio.Queue()
        self._jobs: asyncio.Queue[tuple[Peer, str]] = asyncio.Queue()
        self._later: list[tuple[float, Peer, str]] = []
        self._work = {
            "judge": self._judge,
            "confirm": self._confirm,
            "states": self._apply_states,
            "messages": self._apply_messages,
            "ack": self._ack,
            "fetch": self._fetch,
            "tell": self._tell,
        }

    def start(self, group: asyncio.TaskGroup, workers: int) -> None:
        """Run ``workers`` for hellos and as many for everything else, in ``group`` (LINK-38)."""
        for number in range(workers):
            group.create_task(self._worker(self._hellos), name=f"link hello {number}")
            group.create_task(self._worker(self._jobs), name=f"link work {number}")

    def retry(self, now_s: float) -> None:
        """Queue again what failed and is due."""
        later, self._later = self._later, []
        for item in later:
            if item[0] <= now_s:
                self.queue(item[1], item[2])
            else:
                self._later.append(item)

    def queue(self, peer: Peer, job: str) -> None:
        """Do ``job`` for ``peer`` soon, once however often it is asked for."""
        if job not in peer.queued:
            peer.queued.add(job)
            if job not in peer.running:
                (self._hellos if job == "judge" else self._jobs).put_nowait((peer, job))

    async def _worker(self, queue: "asyncio.Queue[tuple[Peer, str]]") -> None:
        while True:
            peer, job = await queue.get()
            peer.queued.discard(job)
            peer.running.add(job)
            try:
                await self._work[job](peer)
                peer.backoff.reset()
            except Exception as error:  # one node's trouble must not end the others' links
                if not isinstance(error, Retryable):
                    log.exception("work for a node failed", node=peer.node, job=job)
                self._refused.inc(f"{job} failed")
                self._later.append((self._clock.now_s() + peer.backoff.next_s(), peer, job))
            finally:
                peer.running.discard(job)
                if job in peer.queued:
                    queue.put_nowait((peer, job))

    async def _judge(self, peer: Peer) -> None:
        hello, session = peer.hello, peer.session
        if hello is None:
            return
        try:
            record = await self._log.update(peer.node, lambda record: judge(record, hello, self.cloud))
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

    async def _confirm(self, peer: Peer) -> None:
        while peer.confirming:
            wanted = peer.confirming[-1]
            await self._log.update(peer.node, partial(confirm, incarnation=wanted.incarnation, epoch=wanted.epoch))
            peer.confirming = peer.confirming[peer.confirming.index(wanted) + 1 :]
            self._perform(peer, peer.session.confirmed(wanted.epoch, self._clock.now_s()))

    async def _apply_states(self, peer: Peer) -> None:
        batch = [deliver for deliver in peer.states if deliver.epoch == peer.session.epoch]
        if batch:
            newest = {change.key: change for deliver in batch for change in deliver.changes}
            await self._replica.apply_statuses(peer.node, list(newest.values()))
            self._applied(peer, peer.states, batch, batch[-1].state_seq)

    async def _apply_messages(self, peer: Peer) -> None:
        batch = [deliver for deliver in peer.messages if deliver.epoch == peer.session.epoch]
        if batch:
            rows = [row for deliver in batch for messages in deliver.messages for row in messages.rows]
            await self._replica.apply_messages(peer.node, peer.session.incarnation, rows)
            self._applied(peer, peer.messages, batch, 0)

    def _applied(self, peer: Peer, queue: list[Deliver], batch: list[Deliver], state_seq: int) -> None:
        if queue and queue[0] is batch[0]:  # else the session ended meanwhile and the queue with it
            del queue[: len(batch)]
            peer.backlog_bytes -= sum(map(size, batch))
        messages = [m for deliver in batch for m in deliver.messages]
        self._perform(peer, peer.session.committed(batch[0].epoch, state_seq, messages, self._clock.now_s()))

    async def _ack(self, peer: Peer) -> None:
        for cloud, seq in list(peer.acks.items()):
            await self._log.ack(peer.node, cloud, seq)
            if peer.acks.get(cloud) == seq:
                del peer.acks[cloud]

    async def _fetch(self, peer: Peer) -> None:
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

    async def _tell(self, peer: Peer) -> None:
        while peer.tell:
            event = peer.tell[0]
            if isinstance(event, Opened):
                log.info("node connected", node=peer.node, epoch=event.epoch)
                await self._replica.connected(peer.node, event.epoch)
            elif isinstance(event, Ended):
                log.info("node lost", node=peer.node, epoch=event.epoch, reason=event.reason)
                await self._replica.lost(peer.node, event.epoch)
            else:
                await self._replica.fenced(peer.node, event.text)
            peer.tell.popleft()


def size(effect: Deliver) -> int:
    states = sum(len(change.body or b"") + 64 for change in effect.changes)
    return states + sum(len(row.body) + 64 for messages in effect.messages for row in messages.rows)

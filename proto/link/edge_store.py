"""What the edge's link does with its database: apply, forget, adopt, repair; as much as there is in one transaction."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.errors import Retryable, StorageFull, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Counter
from proto.link import inbox
from proto.link.outbox import Outbox
from proto.link.replica import EdgeReplica
from proto.link.reserve import Reserve
from proto.session import Adopt, Deliver, Effect, Settled
from proto.session_edge import EdgeSession

UPKEEP_S = 2.0  # how soon a full disk that has room again is noticed
PRUNE_S = 60.0
RETRY_CAP_S = 30.0  # a replica that keeps failing is asked this often
DISK_FULL = "the disk is full: only what waits is sent, nothing new is taken"

log = Logger("link")
T = TypeVar("T")


class EdgeStore:
    """The database work of one EdgeLink. ``perform`` is told the effects of what was committed."""

    def __init__(
        self,
        db: Database,
        replica: EdgeReplica,
        outbox: Outbox,
        *,
        clock: Clock,
        rng: Rng,
        refused: Counter,
        perform: Callable[[EdgeSession, list[Effect]], None],
    ) -> None:
        self.reserve = Reserve(db.path.with_name(db.path.name + ".reserve"), outbox.settings.reserve_bytes)
        self.error = ""  # of the last failed commit; "" when the last one went well
        self._db = db
        self._replica = replica
        self._outbox = outbox
        self._clock = clock
        self._rng = rng
        self._refused = refused
        self._perform = perform
        self._inbound: list[Deliver] = []
        self._settled: list[Settled] = []
        self._mark = 0  # messages up to here are committed in the cloud and may be forgotten
        self._adopting: Adopt | None = None
        self._differing: list[str] = []
        self._work = asyncio.Event()
        self._apply_work = asyncio.Event()

    def start(self, group: asyncio.TaskGroup, session: EdgeSession) -> None:
        """Work for ``session`` in ``group``."""
        if not self.reserve.restore():
            self._outbox.closed = DISK_FULL
        group.create_task(self._apply(session), name="link inbound")
        group.create_task(self._store(session), name="link outbox")
        group.create_task(self._upkeep(), name="link upkeep")

    def deliver(self, effect: Deliver) -> None:
        """Apply what was received, after what came before it."""
        self._inbound.append(effect)
        self._apply_work.set()

    def settled(self, effect: Settled) -> None:
        """Forget what the cloud has committed."""
        self._settled.append(effect)
        self._work.set()

    def adopt(self, effect: Adopt) -> None:
        """Commit the granted epoch."""
        self._adopting = effect
        self._work.set()

    def differ(self, keys: list[str]) -> None:
        """Send statuses again that the cloud holds differently."""
        self._differing += keys
        self._work.set()

    def ended(self) -> None:
        """Forget what was received in a session that has ended and is not yet applied."""
        self._inbound.clear()

    async def _apply(self, session: EdgeSession) -> None:
        """Apply what the cloud sent, as much as there is in one transaction."""
        backoff = Backoff(0.2, RETRY_CAP_S, self._rng)
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
                await self.tx(lambda tx: apply(tx, self._replica, batch))
            except Exception as error:  # one bad object must not end the link; nothing is acknowledged
                if not isinstance(error, Retryable):
                    log.exception("applying what the cloud sent failed")
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
        backoff = Backoff(0.2, RETRY_CAP_S, self._rng)
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._store_once(session)
            except (Retryable, Terminal) as error:
                self.error = str(error)
                log.warning("storing acknowledgements failed", error=error)
                self._work.set()
                await self._clock.sleep(backoff.next_s())
            else:
                self.error = ""
                backoff.reset()

    async def _store_once(self, session: EdgeSession) -> None:
        adopting, settled, keys = self._adopting, self._settled[:], self._differing[:]
        statuses = self._replica.statuses() if keys else {}

        ends = [flight.end for effect in settled for flight in effect.flights if flight.token is None]
        mark = max([self._mark, *ends, adopting.welcome.mark if adopting is not None else 0])

        def work(tx: Tx) -> bool:
            if adopting is not None:
                inbox.adopt(tx, adopting.epoch, adopting.welcome)
            left = settle(tx, self._outbox, settled, mark)
            repair(tx, self._outbox, keys, statuses)
            return left

        left = await self.tx(work)
        self._mark = mark if left else 0
        if left:
            self._work.set()
        del self._settled[: len(settled)], self._differing[: len(keys)]
        if adopting is not None and adopting is self._adopting:
            self._adopting = None
            self._perform(session, session.adopted(self._clock.now_s()))

    async def tx(self, fn: Callable[[Tx], T]) -> T:
        """Commit ``fn``; a full disk gets the reserve first (LINK-18)."""
        try:
            return await self._db.tx(fn)
        except StorageFull:
            if not self.reserve.release():
                raise
            self._outbox.closed = DISK_FULL
            return await self._db.tx(fn)

    async def _upkeep(self) -> None:
        pruned_s = self._clock.now_s()
        while True:
            await self._clock.sleep(UPKEEP_S)
            if self._outbox.closed:
                await asyncio.to_thread(self.reserve.shrink, self._db.path)
            if self.reserve.restore() and self._outbox.closed:
                self._outbox.closed = ""
                log.info("disk has room again: reserve restored")
            if self._clock.now_s() - pruned_s >= PRUNE_S:
                pruned_s = self._clock.now_s()
                try:
                    await self.tx(self._outbox.prune_age)
                except (Retryable, Terminal) as error:
                    log.warning("pruning the outbox failed", error=error)


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

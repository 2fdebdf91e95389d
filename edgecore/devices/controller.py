"""The device controller: specs from the store, requests from MQTT, reports from mappers, all through one pump.

Reads Device and DeviceModel; the only writer of DeviceStatus on this node. One transaction is on its way at a time and
everything that arrives meanwhile shares the next one, so an idle device waits for one fsync and a busy room for few.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from devicetwin import topics
from devicetwin.delta import delta
from devicetwin.merge import INTERNAL, Rejected, Wish
from devicetwin.model import DeviceId
from edgecore.devices import twins
from edgecore.devices.batch import Batch
from edgecore.devices.entry import Entry
from edgecore.devices.mqtt import DeviceBroker
from edgecore.devices.requests import Requests
from edgecore.devices.specs import Specs
from edgecore.devices.statuses import Statuses
from edgecore.kinds import DEVICE, DEVICE_MODEL, DEVICE_STATUS
from kubeapi.store import Event, Store
from proto.kit.clock import Clock, wall_ms
from proto.kit.database import Database, DatabaseClosed
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.outbox import Outbox

log = Logger("devices")
SCHEMA = twins.SCHEMA
MAX_BATCH = 256  # operations per transaction: bounds how long the loop is held
MAX_WAITING = 8192  # requests: what comes on top gets no PUBACK and is sent again (QoS 0 is lost, and counted)
LEAST_GAP_S, MOST_GAP_S = 0.001, 0.005  # between two batches, only while each gathers more than one operation
TICK_S = 0.02
WATCH_EVERY_S = 1.0  # how often silence and untold deltas are looked for
REPEAT_DELTA_S = 60.0  # a device that missed a delta (rebooted, resubscribed) hears it again
RETRY_S = 1.0

Operation = Callable[[Batch], None]


class DeviceController:
    """Twins of one node. ``run`` it beside the broker; ``SCHEMA`` belongs among the schemas of the database."""

    def __init__(
        self,
        node: str,
        db: Database,
        store: Store,
        outbox: Outbox,
        broker: DeviceBroker,
        *,
        clock: Clock,
        metrics: Metrics,
        stale_after_s: float = 300.0,
    ) -> None:
        self._db = db
        self._store = store
        self._outbox = outbox
        self._broker = broker
        self._clock = clock
        self.entries: dict[DeviceId, Entry] = {}
        self._statuses = Statuses(store, DEVICE_STATUS, clock, outbox.waiting_states)
        self._requests = Requests(node, self.entries, broker, clock=clock, metrics=metrics)
        self._requests.on_expected(self._tell_watchers)
        self._specs = Specs(
            node,
            store,
            entries=self.entries,
            requests=self._requests,
            statuses=self._statuses,
            saved=db.read(twins.load),
            clock=clock,
            stale_after_s=stale_after_s,
        )
        self._operations: list[tuple[Operation, asyncio.Future[None] | None]] = []
        self._said: dict[DeviceId, tuple[str, str, dict[str, str]]] = {}  # the newest word of each mapper
        self._busy = False
        self._woken = False
        self._gap_s = 0.0
        self._pumped_at_s = 0.0  # loop time
        self._later = asyncio.Event()
        self._watchers: list[Callable[[DeviceId], object]] = []
        self._ignored = metrics.counter(
            "skerry_edge_device_ignored_total", "MQTT messages that are no request.", ["reason"]
        )
        self._failed = metrics.counter(
            "skerry_edge_device_commits_failed_total", "Device transactions that did not commit."
        )
        metrics.gauge("skerry_edge_devices", "Devices of this node.", source=lambda: len(self.entries))
        metrics.gauge(
            "skerry_edge_device_statuses_waiting", "Statuses to be written.", source=lambda: self._statuses.waiting
        )
        store.listen(DEVICE, self._device_changed)
        store.listen(DEVICE_MODEL, self._model_changed)
        self._first_pass()

    # what others call

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._broker.run(self.receive))
            group.create_task(self._flush_later())
            group.create_task(self._watch_silence())

    def receive(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        """Take one PUBLISH; the future resolves when what it caused is on disk, and fails when that cannot be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = topics.parse(topic)
        if request is None:
            self._ignored.inc("no request topic")
            done.set_result(None)
            return done
        if self._is_flooded(done):
            return done
        self.submit(partial(self._requests.handle, request, payload), done)
        return done

    def report(self, device: DeviceId, values: Mapping[str, str], at_ms: int = 0) -> "asyncio.Future[None]":
        """Take what a mapper read; the future resolves when it is on disk. Fails with Rejected, Retryable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._is_flooded(done):
            return done
        wishes = {name: Wish(reported=value, reported_at_ms=at_ms) for name, value in values.items()}
        self.submit(partial(self._report, device, wishes, done), done)
        return done

    def mapper_says(
        self, device: DeviceId, state: str, *, error: str = "", write_errors: Mapping[str, str] | None = None
    ) -> None:
        """Record what a mapper knows of its device: state, why it is not reached, which writes failed."""
        self._said[device] = state, error, dict(write_errors or {})
        self.submit(partial(self._mapper_says, device))

    def pending(self, device: DeviceId) -> dict[str, str]:
        """Return what the device still has to take."""
        entry = self.entries.get(device)
        return delta(entry.twin.twins) if entry is not None else {}

    def watch(self, changed: Callable[[DeviceId], object]) -> None:
        """Call ``changed`` after a device was added, removed, or given another spec or override (also for all here)."""
        self._watchers.append(changed)
        for device in self.entries:
            changed(device)

    def statuses(self) -> dict[str, bytes]:
        """Return key -> body of every DeviceStatus of this node, for the link's repair at hello."""
        return dict(self._statuses.bodies())

    async def settled(self) -> None:
        """Return once everything submitted so far is on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.submit(lambda _: None, done)
        await done

    # the pump

    def submit(self, operation: Operation, done: "asyncio.Future[None] | None" = None) -> None:
        """Run ``operation`` in the next batch; ``done`` resolves once that is on disk."""
        self._operations.append((operation, done))
        self._wake()

    def _is_flooded(self, done: "asyncio.Future[None]") -> bool:
        """Refuse a request while more wait than memory should hold."""
        if len(self._operations) < MAX_WAITING:
            return False
        self._ignored.inc("flood")
        done.set_exception(Retryable(f"{MAX_WAITING} device requests are already waiting"))
        done.exception()  # at QoS 0 nobody asks
        return True

    def _wake(self) -> None:
        """Pump soon: what is read in this turn of the loop shares a batch; a busy room gathers for a few ms."""
        if self._woken or self._busy:
            return
        self._woken = True
        loop = asyncio.get_running_loop()
        wait_s = self._pumped_at_s + self._gap_s - loop.time() if self._gap_s else 0.0
        if wait_s > 0 and len(self._operations) < MAX_BATCH:
            loop.call_later(wait_s, self._pump)
        else:
            loop.call_soon(self._pump)

    def _pace(self, operations: int) -> None:
        """A commit costs more than a report: wait longer for company while company comes, not at all when it does not."""
        self._pumped_at_s = asyncio.get_running_loop().time()
        if operations > 1:
            self._gap_s = min(MOST_GAP_S, max(LEAST_GAP_S, self._gap_s * 2))
        else:
            self._gap_s = self._gap_s / 2 if self._gap_s > LEAST_GAP_S else 0.0

    def _pump(self) -> None:
        self._woken = False
        if self._busy:
            return
        batch = Batch()
        operations, self._operations = self._operations[:MAX_BATCH], self._operations[MAX_BATCH:]
        self._pace(len(operations))
        for operation, done in operations:
            if done is not None:
                batch.waiting.append(done)
            self._apply(operation, batch)
        self._statuses.take(batch)
        if self._statuses.waiting:
            self._later.set()
        if batch.empty:
            self._finish(batch)
        else:
            self._busy = True
            future = self._db.submit(batch.writer(self._store, self._outbox, DEVICE_STATUS))
            future.add_done_callback(partial(self._committed, batch))

    def _apply(self, operation: Operation, batch: Batch) -> None:
        try:
            operation(batch)
        except Exception:  # one bad message must not stop the others
            self._ignored.inc("internal error")
            log.exception("device operation failed")

    def _committed(self, batch: Batch, future: "asyncio.Future[None]") -> None:
        self._busy = False
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._abort(batch, error)
        else:
            self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        """On disk: now the devices may hear it, then the publishers get their PUBACK (TWIN-10)."""
        for topic, payload in batch.answers:
            self._broker.publish(topic, payload)
        for done in batch.waiting:
            if not done.done():
                done.set_result(None)
        for step in batch.after:
            step()
        if self._operations:
            self._wake()

    def _abort(self, batch: Batch, error: BaseException | None) -> None:
        """Not on disk: memory goes back to what is, clients hear 500, publishers get no PUBACK."""
        self._failed.inc()
        log.warning("device transaction failed", error=error, waiting=len(batch.waiting))
        for step in reversed(batch.undo):
            step()
        self._statuses.put_back(batch, self.entries)
        reason = str(error) if error is not None else "edgecore is stopping"
        for topic, event_id in batch.failed_answers:
            self._broker.publish(topic, topics.error(event_id, wall_ms(self._clock), INTERNAL, reason))
        for done in batch.waiting:
            if not done.done():
                done.set_exception(error or DatabaseClosed(reason))
                done.exception()  # a publisher that has gone away no longer asks
        if batch.retry:
            asyncio.get_running_loop().call_later(RETRY_S, self._again, batch.retry)
        if self._operations:
            self._wake()

    def _again(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            self.submit(operation)

    # operations

    def _report(self, device: DeviceId, wishes: Mapping[str, Wish], done: "asyncio.Future[None]", batch: Batch) -> None:
        try:
            self._requests.report(device, wishes, batch)
        except Rejected as refusal:
            done.set_exception(refusal)

    def _mapper_says(self, device: DeviceId, batch: Batch) -> None:
        """Take up the newest word of a mapper (a retried operation may come after it)."""
        entry = self.entries.get(device)
        if entry is None:
            self._said.pop(device, None)
            return
        batch.retry.append(partial(self._mapper_says, device))
        state, error, write_errors = self._said[device]
        if (entry.mapper_error, entry.write_errors) != (error, write_errors):
            entry.mapper_error, entry.write_errors = error, write_errors
            batch.states[entry.uid] = batch.touched[entry.uid] = entry
        if entry.twin.state != state:
            self._requests.set_state(entry, state, batch)

    def _reconcile(self, device: DeviceId, batch: Batch) -> None:
        batch.retry.append(partial(self._reconcile, device))
        self._specs.reconcile(device, batch, self._tell_watchers)

    def _first_pass(self) -> None:
        """The cold boot: everything that the store holds, then what it no longer holds."""
        for stored in self._store.items(DEVICE, None):
            self.submit(partial(self._reconcile, DeviceId(stored.namespace, stored.name)))
        self.submit(self._specs.forget_strangers)

    def _device_changed(self, event: Event) -> None:
        self.submit(partial(self._reconcile, DeviceId(event.stored.namespace, event.stored.name)))

    def _model_changed(self, event: Event) -> None:
        for device in self._specs.users((event.stored.namespace, event.stored.name)):
            self.submit(partial(self._reconcile, device))

    def _tell_watchers(self, device: DeviceId) -> None:
        for changed in self._watchers:
            changed(device)

    # time

    async def _flush_later(self) -> None:
        while True:
            await self._later.wait()
            await self._clock.sleep(TICK_S)
            self._later.clear()
            self._wake()
            if self._statuses.waiting:
                self._later.set()

    async def _watch_silence(self) -> None:
        while True:
            await self._clock.sleep(WATCH_EVERY_S)
            self.submit(self._look)

    def _look(self, batch: Batch) -> None:
        """Notice devices that fell silent, and repeat deltas that a device may have missed."""
        now_s = self._clock.now_s()
        for entry in self.entries.values():
            silent = now_s - entry.heard_at_s > entry.silence_s
            if silent != entry.silent:
                entry.silent = silent
                batch.touched[entry.uid] = entry
            if now_s - entry.told_delta_at_s > REPEAT_DELTA_S:
                entry.told_delta_at_s = now_s
                self._requests.tell_delta(entry, batch, both=True)

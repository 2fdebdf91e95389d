"""Runs the mappers of this node's devices inside edgecore. A crash restarts only that mapper (TWIN-17).

Reads twins through the controller; tells it states and reports, never writes itself.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from devicetwin.lifecycle import OFFLINE, ONLINE, UNHEALTHY
from devicetwin.mapper import BadConfig, Mapper, MapperContext, MapperFactory, PeriodicMapper, Unreachable, WriteFailed
from devicetwin.merge import Rejected
from devicetwin.model import DeviceId, DeviceSpec
from edgecore.devices.controller import DeviceController
from edgecore.devices.cycles import Cycles
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.kit.metrics import Metrics

log = Logger("mappers")
CALL_TIMEOUT_S = 10.0  # a device that hangs must become offline, not silent
RESTART_BASE_S, RESTART_CAP_S = 0.5, 60.0
WRITE_BASE_S, WRITE_CAP_S = 0.5, 30.0
REWRITE_S = 10.0  # a device may take its time to follow; what it took is not written again before


class Mappers:
    """One runner per device whose protocol is among ``factories``. ``run`` it beside the controller."""

    def __init__(
        self,
        node: str,
        controller: DeviceController,
        factories: Mapping[str, MapperFactory],
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> None:
        self._node = node
        self._controller = controller
        self._factories = factories
        self._clock = clock
        self._rng = rng
        self._runners: dict[DeviceId, tuple[Runner, asyncio.Task[None]]] = {}
        self._changed: set[DeviceId] = set()
        self._wake = asyncio.Event()
        self._restarts = metrics.counter("skerry_edge_mapper_restarts_total", "Mappers started again.", ["protocol"])
        self._refused = metrics.counter(
            "skerry_edge_mapper_readings_refused_total", "Readings that the model refuses.", ["protocol"]
        )
        metrics.gauge("skerry_edge_mappers_running", "Mappers inside edgecore.", source=lambda: len(self._runners))

    async def run(self) -> None:
        """Serve until cancelled; every mapper is closed on the way out."""
        self._controller.watch(self._note)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                changed, self._changed = self._changed, set()
                for device in changed:
                    await self._reconcile(device, group)

    def _note(self, device: DeviceId) -> None:
        self._changed.add(device)
        self._wake.set()

    async def _reconcile(self, device: DeviceId, group: asyncio.TaskGroup) -> None:
        entry = self._controller.entries.get(device)
        spec = entry.twin.spec if entry is not None else None
        factory = self._factories.get(spec.protocol) if spec is not None and spec.model_found else None
        running = self._runners.get(device)
        if running is not None and (spec is None or factory is None or shape(spec) != running[0].shape):
            del self._runners[device]
            running[1].cancel()
            await asyncio.wait({running[1]})
            running = None
        if spec is None or factory is None:
            return
        if running is not None:
            running[0].wake()
            return
        context = MapperContext(spec, self._clock, self._rng, self._node)
        runner = Runner(self._controller, context, factory, restarts=self._restarts.inc, refused=self._refused.inc)
        self._runners[device] = runner, group.create_task(runner.run(), name=f"mapper:{device}")


def shape(spec: DeviceSpec) -> DeviceSpec:
    """Return the part of a spec that a mapper is built from: a new desired value must not restart it."""
    properties = {
        name: msgspec.structs.replace(prop, desired=None, problem="") for name, prop in spec.properties.items()
    }
    return msgspec.structs.replace(spec, generation=0, labels={}, properties=properties)


class Runner:
    """One device's mapper: open, then write what is pending and report what is read, until cancelled."""

    def __init__(
        self,
        controller: DeviceController,
        context: MapperContext,
        factory: MapperFactory,
        *,
        restarts: Callable[[str], None],
        refused: Callable[[str], None],
    ) -> None:
        self._controller = controller
        self._context = context
        self._factory = factory
        self._restarts = restarts
        self._refused = refused
        self._id = context.spec.id
        self.shape = shape(context.spec)
        self._woken = asyncio.Event()
        self._backoff = Backoff(RESTART_BASE_S, RESTART_CAP_S, context.rng)
        self._said: tuple[str, str, dict[str, str]] | None = None
        self._cycles = Cycles(context.spec)
        self._write_errors: dict[str, str] = {}
        self._write_backoff: dict[str, Backoff] = {}
        self._write_after_s: dict[str, float] = {}
        self._written: dict[str, tuple[str, float]] = {}  # property -> value the device took, when

    def wake(self) -> None:
        """Something may be pending: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Keep the mapper running; whatever it raises becomes the device's state and a later start."""
        while True:
            try:
                await self._session()
            except BadConfig as error:
                self._say(UNHEALTHY, str(error))
                log.warning("mapper cannot start", device=self._id, error=error)
                await asyncio.get_running_loop().create_future()  # until the Device changes
            except Retryable as error:
                self._down(OFFLINE, str(error) or type(error).__name__)
            except TimeoutError:
                self._down(OFFLINE, f"no answer within {CALL_TIMEOUT_S:g} s")
            except Exception as error:
                log.exception("mapper crashed", device=self._id)
                self._down(UNHEALTHY, f"{type(error).__name__}: {error}")
            await self._context.clock.sleep(self._backoff.next_s())

    async def _session(self) -> None:
        mapper = self._factory(self._context)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await mapper.open(self._known())
            while True:
                fresh = await self._write_pending(mapper)
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    values = await mapper.read()
                self._up()
                await self._report(mapper, values, fresh)
                await self._pause(mapper)
        finally:
            await mapper.close()

    def _known(self) -> dict[str, str]:
        entry = self._controller.entries.get(self._id)
        twins = entry.twin.live() if entry is not None else {}
        return {name: twin.reported for name, twin in twins.items() if twin.reported is not None}

    async def _write_pending(self, mapper: Mapper) -> list[str]:
        """Write what is desired and not reported; return what was taken."""
        taken = []
        now_s = self._context.clock.now_s()
        pending = self._controller.pending(self._id)
        for name in [n for n in self._write_errors if n not in pending]:
            del self._write_errors[name]
        for name, value in pending.items():
            if now_s < self._write_after_s.get(name, now_s) or self._is_written(name, value, now_s):
                continue
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await mapper.write(name, value)
            except Unreachable:
                raise
            except WriteFailed as error:
                self._write_errors[name] = str(error)
                backoff = self._write_backoff.setdefault(name, Backoff(WRITE_BASE_S, WRITE_CAP_S, self._context.rng))
                self._write_after_s[name] = now_s + backoff.next_s()
            else:
                taken.append(name)
                self._written[name] = value, now_s
                self._write_errors.pop(name, None)
                self._write_backoff.pop(name, None)
        return taken

    def _is_written(self, name: str, value: str, now_s: float) -> bool:
        last = self._written.get(name)
        return last is not None and last[0] == value and now_s - last[1] < REWRITE_S

    async def _report(self, mapper: Mapper, values: Mapping[str, str], fresh: list[str]) -> None:
        due = self._cycles.due(values, fresh, self._context.clock.now_s(), _period_ms(mapper))
        if not due:
            return
        try:
            await self._controller.report(self._id, due)
        except Rejected:
            for name, value in due.items():
                await self._report_one(name, value)
        except Retryable as error:  # a full disk here says nothing about the device
            log.debug("report not kept", device=self._id, error=error)

    async def _report_one(self, name: str, value: str) -> None:
        """One reading that the model refuses must not hide the others."""
        try:
            await self._controller.report(self._id, {name: value})
        except Rejected as refusal:
            self._refused(self._context.spec.protocol)
            log.debug("reading refused", device=self._id, property=name, reason=refusal)

    async def _pause(self, mapper: Mapper) -> None:
        """Wait for the next cycle, or for something to write."""
        every_s = self._cycles.read_every_s(_period_ms(mapper))
        try:
            async with asyncio.timeout(every_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    def _up(self) -> None:
        self._backoff.reset()
        self._say(ONLINE, "")

    def _down(self, state: str, error: str) -> None:
        self._restarts(self._context.spec.protocol)
        self._say(state, error)

    def _say(self, state: str, error: str) -> None:
        said = (state, error, dict(self._write_errors))
        if said != self._said:
            if error or (self._said and self._said[1]):
                log.info("mapped device", device=self._id, state=state, error=error)
            self._said = said
            self._controller.mapper_says(self._id, state, error=error, write_errors=self._write_errors)


def _period_ms(mapper: Mapper) -> int:
    return mapper.period_ms() if isinstance(mapper, PeriodicMapper) else 0

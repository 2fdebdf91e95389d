"""What running pods need now and then: fresh files, short logs, room on the disk, and an end when the node runs dry."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from edgecore.pods import eviction
from edgecore.pods.build import Builder
from edgecore.pods.controller import PodController
from edgecore.pods.entry import Entry
from edgecore.pods.eviction import DISK, MEMORY, Pressure
from edgecore.pods.image_gc import ImageCollector, disk_of
from edgecore.pods.observer import Observer
from edgecore.pods.rotation import rotate
from edgecore.pods.runtime import ContainerRuntime, RuntimeAway, RuntimeRefused, State
from edgecore.pods.seen import Ended
from edgecore.pods.settings import PodsSettings
from edgecore.pods.specs import Json
from edgecore.pods.timers import either
from edgecore.pods.unready import Unready
from proto.kit.clock import Clock
from proto.kit.log import Logger

log = Logger("pods")
REFRESH_S = 60.0  # tokens, and what a hint missed
SETTLE_S = 0.5  # objects that change together make one refresh
ROTATE_S = 5.0
PRESSURE_S = 10.0
COLLECT_S = 60.0
LIMITS_S = 60.0
MOST_GRACE_S = 30.0  # of an evicted pod: the node needs its room soon
Free = Callable[[], tuple[int, int]]  # bytes of memory, bytes of disk


class Upkeep:
    """``free`` says what the machine has left."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        builder: Builder,
        controller: PodController,
        observer: Observer,
        collector: ImageCollector,
        settings: PodsSettings,
        *,
        free: Free,
        clock: Clock,
    ) -> None:
        self._runtime, self._builder, self._controller, self._observer = runtime, builder, controller, observer
        self._collector, self._settings, self._free, self._clock = collector, settings, free, clock
        self._stale: set[str] = set()  # namespaces of which an object changed
        self._refresh_now = asyncio.Event()
        self._pressure = Pressure(settings.evict_after_s)
        self.image_free_bytes: int | None = None  # of the disk where images and what containers write rest

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Everything that is to run beside the controller."""
        turns = (
            (self._rotate, ROTATE_S),
            (self._relieve, PRESSURE_S),
            (self._collect, COLLECT_S),
            (self._check_limits, LIMITS_S),
        )
        return [self._refresh(), *(self._each(turn, every_s) for turn, every_s in turns)]

    def object_changed(self, namespace: str) -> None:
        """A ConfigMap or Secret changed: pods that wait for it go on, files of the others are written again."""
        self._stale.add(namespace)
        self._refresh_now.set()
        self._controller.wake_namespace(namespace)

    async def _each(self, turn: Callable[[], Coroutine[Any, Any, None]], every_s: float) -> None:
        while True:
            await self._clock.sleep(every_s)
            try:
                await turn()
            except (RuntimeAway, RuntimeRefused) as error:
                log.debug("upkeep waits", reason=error)
            except Exception:  # the pods are worth more than their upkeep
                log.exception("upkeep failed")

    async def _refresh(self) -> None:
        """Bring files of running pods up to date: soon after an object changed, and each minute."""
        while True:
            hinted = await either(self._refresh_now, self._clock, REFRESH_S)
            self._refresh_now.clear()
            if hinted:
                await self._clock.sleep(SETTLE_S)
            namespaces, self._stale = self._stale, set()
            for entry, pod in self._controller.running():
                if not hinted or entry.namespace in namespaces:
                    await self._refresh_one(pod)

    async def _refresh_one(self, pod: Json) -> None:
        try:
            await self._builder.refresh(pod)
        except Unready as error:
            self._controller.events.say(pod, "Warning", error.reason, error.message)
        except Exception:  # one pod must not stop the others
            log.exception("volumes not refreshed", pod=pod["metadata"]["name"])

    async def _rotate(self) -> None:
        """Keep logs of running containers within their size."""
        for seen in list(self._observer.seen.values()):
            for container in list(seen.containers.values()):
                if container.state is State.RUNNING and container.log_path:
                    await rotate(self._runtime, container, self._settings.log_max_bytes, self._settings.log_files)

    async def _collect(self) -> None:
        with suppress(OSError):
            await self._collector.turn()

    async def _check_limits(self) -> None:
        for entry, pod in self._controller.running():
            if why := await self._builder.over_limit(pod):
                self._evict(entry, pod, Ended("Evicted", why))

    async def _relieve(self) -> None:
        """Evict one pod when memory or disk has been short for long; unused images go before any pod."""
        await self._look_at_images()
        memory, disk = self._free()
        if self.image_free_bytes is not None:
            disk = min(disk, self.image_free_bytes)
        now_s, settings = self._clock.now_s(), self._settings
        if self._pressure.due(MEMORY, memory, settings.evict_memory_bytes, now_s):
            await self._evict_one(MEMORY, settings.evict_memory_bytes, memory)
        if self._pressure.due(DISK, disk, settings.evict_disk_bytes, now_s):
            if (await self._collector.prune()).freed_bytes:
                self._pressure.eased(DISK)
            else:
                await self._evict_one(DISK, settings.evict_disk_bytes, disk)

    async def _look_at_images(self) -> None:
        """They may rest on a disk of their own."""
        with suppress(OSError):  # one that we do not see
            self.image_free_bytes = disk_of((await self._runtime.image_filesystem()).path).free_bytes

    async def _evict_one(self, resource: str, threshold: int, available: int) -> None:
        used = await self._used(resource)
        running = self._controller.running()
        pod = eviction.pick([pod for _, pod in running], used, resource)
        if pod is None:
            return
        uid = pod["metadata"]["uid"]
        entry = next(entry for entry, _ in running if entry.uid == uid)
        self._evict(entry, pod, eviction.verdict(pod, resource, threshold, available, used.get(uid, 0)))
        self._pressure.eased(resource)

    def _evict(self, entry: Entry, pod: Json, ended: Ended) -> None:
        log.warning("pod evicted", pod=f"{entry.namespace}/{entry.name}", reason=ended.message)
        self._controller.events.say(pod, "Warning", "Evicted", ended.message)
        grace_s = min(MOST_GRACE_S, float(pod["spec"].get("terminationGracePeriodSeconds", MOST_GRACE_S)))
        self._controller.end(entry, ended, grace_s=grace_s)

    async def _used(self, resource: str) -> dict[str, int]:
        """Bytes by pod."""
        owners = {c: uid for uid, seen in self._observer.seen.items() for c in seen.containers}
        out: dict[str, int] = {}
        for usage in await self._runtime.usage():
            uid = owners.get(usage.container_id)
            if uid is not None:
                amount = usage.memory_bytes if resource == MEMORY else usage.writable_bytes
                out[uid] = out.get(uid, 0) + amount
        if resource == DISK:
            for entry, pod in self._controller.running():
                out[entry.uid] = out.get(entry.uid, 0) + await self._builder.written(pod)
        return out

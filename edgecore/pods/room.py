"""The pod room, put together: runtime, builder, controller, probes, log rotation, refreshes; and what the Node says of it.

Starts before anything that waits for the cloud, and needs nothing of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecore.data_dir import DataDir
from edgecore.node import Workloads
from edgecore.pods import admission, choice, probes, records, specs
from edgecore.pods.events import PodEvents
from edgecore.pods.facts import NodeFacts
from edgecore.pods.lookups import StoreObjects
from edgecore.pods.runtime import ContainerRuntime, RuntimeAway, RuntimeRefused, Version
from edgecore.pods.seen import ALIVE
from edgecore.pods.settings import PodsSettings
from edgecore.pods.specs import Json
from edgecore.pods.static import StaticPods
from edgecore.pods.timers import Timers
from edgecore.pods.writer import Writer
from kubeapi.kinds import CONFIG_MAP, SECRET, SERVICE_ACCOUNT
from kubeapi.store import Event, Store
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.outbox import Outbox

if TYPE_CHECKING:
    from edgecore.pods.build import Builder
    from edgecore.pods.controller import PodController
    from edgecore.pods.observer import Observer
    from edgecore.pods.tokens import Tokens
    from edgecore.pods.upkeep import Upkeep

log = Logger("pods")
SCHEMA = records.SCHEMA + choice.SCHEMA
NOT_YET = "not looked for yet"
PATIENCE_S = 5.0  # of a runtime that does not answer, before the Node is not Ready
AGAIN_S = 5.0
DETECT_S = 5.0  # between two looks for a runtime on a node that has none
HEALTH_S = 10.0
IMAGES_S = 60.0
RECLAIM_S = 60.0
TOP_IMAGES = 50
MANIFESTS = "manifests"
OpenRuntime = Callable[[str, PodsSettings, Clock, Path], ContainerRuntime]


@dataclass(slots=True)
class Surroundings:
    """What the room asks others: the node's facts, whether the cloud has told everything, where pods find the API."""

    facts: Callable[[], NodeFacts]
    allocatable: Callable[[], dict[str, int]]
    synced: Callable[[], bool]
    online: Callable[[], bool]
    free: Callable[[], tuple[int, int]]  # bytes of memory, bytes of disk
    api: tuple[str, int] | None = None
    mirrors: Callable[[], Mapping[str, str]] = dict  # key -> uid of each mirror pod in the cloud


class PodRoom:
    """One per daemon. ``runtime`` is None until one was found."""

    def __init__(  # noqa: PLR0913  a composition root
        self,
        directory: DataDir,
        db: Database,
        store: Store,
        outbox: Outbox,
        settings: PodsSettings,
        around: Surroundings,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        open_runtime: OpenRuntime = choice.open_runtime,
    ) -> None:
        self._open_runtime, self._outbox = open_runtime, outbox
        self._directory, self._db, self._store, self._settings = directory, db, store, settings
        self._around, self._clock, self._rng, self._metrics = around, clock, rng, metrics
        self._boot = around.facts().boot_id
        self.events = PodEvents(around.facts().name, clock, metrics)
        self.writer = Writer(
            db, store, outbox, self.events, clock=clock, metrics=metrics, boot=self._boot, mirrors=around.mirrors
        )
        self.timers = Timers(clock)
        self.static = self._static()
        self.objects = StoreObjects(store)
        self.runtime: ContainerRuntime | None = None
        self.builder: Builder | None = None
        self.controller: PodController | None = None
        self.observer: Observer | None = None
        self._why_none = NOT_YET
        self._version, self._unhealthy = "none://", ""
        self._down_since_s: float | None = None
        self._images: tuple[tuple[tuple[str, ...], int], ...] = ()
        self._upkeep: Upkeep | None = None
        for kind in (CONFIG_MAP, SECRET, SERVICE_ACCOUNT):
            store.listen(kind, self._object_changed)
        probes.failures(metrics)
        metrics.gauge("skerry_edge_pods", "Pods of this node.", source=self._count)

    # what others ask

    def workloads(self) -> Workloads:
        """What the Node's status says of pods."""
        settings = self._settings
        found = self.runtime is not None
        trouble = self._trouble()
        if not found:
            reason, message = "EdgeReady", f"edgecore is serving; it runs no pods: {self._why_none}"
        elif trouble:
            reason, message = "ContainerRuntimeDown", f"container runtime is down: {trouble}"
        else:
            reason, message = "EdgeReady", "edgecore is serving"
        return Workloads(
            pods=settings.max_pods if found else 0,
            runtime=self._version,
            ready=not found or not trouble,
            reason=reason,
            message=message,
            images=self._images,
            reserved_cpu_milli=settings.reserved_cpu_milli,
            reserved_memory_bytes=settings.reserved_memory_bytes,
            reserved_disk_bytes=settings.reserved_disk_bytes,
            image_disk_free_bytes=self._upkeep.image_free_bytes if self._upkeep is not None else None,
        )

    def asked(self) -> bool:
        """Whether ``workloads`` is what the runtime says, not yet the ignorance of a start."""
        if self.runtime is None:
            return self._why_none != NOT_YET
        looked = self.controller is not None and self.controller.looked
        return looked and bool(self._version != "none://" or self._unhealthy)

    def mirrors_changed(self) -> None:
        """A mirror pod appeared in the cloud or went."""
        self.static.mirrors_changed()
        self.writer.mirrors_changed()

    def addresses(self) -> Iterator[str]:
        """The addresses of the pods that run here on a network of their own, as the runtime says."""
        for uid, seen in tuple(self.observer.seen.items()) if self.observer is not None else ():
            entry = self.controller.entries.get(uid) if self.controller is not None else None
            pod = self.controller.pod_of(entry) if self.controller is not None and entry is not None else None
            if pod is None or not specs.is_host_network(pod):
                yield from (ip for sandbox in seen.sandboxes.values() if sandbox.state in ALIVE for ip in sandbox.ips)

    def statuses(self) -> dict[str, bytes]:
        """Key -> body of every pod status, for the link's repair at hello."""
        return self.writer.bodies()

    def restart(self, namespace: str, name: str, container: str) -> str:
        """Restart one container of a pod, or all of them; return why not, "" for done."""
        entry = self.controller.find(namespace, name) if self.controller is not None else None
        pod = self.controller.pod_of(entry) if self.controller is not None and entry is not None else None
        if self.controller is None or entry is None or pod is None:
            return f"pod {namespace}/{name} is not run here"
        names = [c["name"] for c in (*specs.main_containers(pod), *specs.sidecars(pod))]
        if container and container not in names:
            return f"pod {namespace}/{name} has no container {container}; there are: {', '.join(names)}"
        done = [self.controller.restart(entry, one) for one in ([container] if container else names)]
        return "" if any(done) else f"no container of pod {namespace}/{name} runs now: it starts by itself when it can"

    # life

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.timers.run())
            group.create_task(self._keep("writer", self.writer.run))
            group.create_task(self._keep("static pods", self.static.run))
            name = await self._find_runtime()
            await self._begin(group, name)

    def _static(self) -> StaticPods:
        """Static pods need no runtime to be known."""
        folder = Path(self._settings.static_path or self._directory.path / MANIFESTS)
        node, around = self._around.facts().name, self._around
        return StaticPods(
            folder,
            node,
            self._db,
            self._store,
            self._outbox,
            mirrors=around.mirrors,
            clock=self._clock,
            metrics=self._metrics,
        )

    async def _find_runtime(self) -> str:
        said = ""
        while True:
            name, why = choice.choose(self._settings, choice.remembered(self._db))
            if name != choice.NONE:
                return name
            self._why_none = why
            if why != said:
                log.debug("no pods are run here", reason=why)  # people read it in the Node's Ready condition
                said = why
            await self._clock.sleep(DETECT_S)

    async def _begin(self, group: asyncio.TaskGroup, name: str) -> None:
        from edgecore.pods import build, reclaim  # noqa: PLC0415  megabytes that a gateway without pods does not need

        runtime = self.runtime = self._open_runtime(name, self._settings, self._clock, self._directory.path)
        tokens = await self._open_tokens()
        builder = self.builder = build.Builder(
            self._directory,
            self.objects,
            tokens,
            self._settings,
            self._around.facts,
            runtime,
            clock=self._clock,
            api=self._around.api,
            say=self.events.say,
            online=self._around.online,
            child=name == choice.PROCESS,
        )
        self._assemble(runtime, builder)
        assert self.controller is not None
        assert self._upkeep is not None
        reclaimer = reclaim.Reclaimer(builder.local, self._around.facts, self._db, self._outbox)
        log.info("pods are run", runtime=name)
        for work in (
            self.controller.run(self._settings.relist_every_s),
            self.probes.run(),
            self._keep("health", partial(self._watch_health, name)),
            self._keep("images", self._watch_images),
            *self._upkeep.works(),
            self._keep("volumes", partial(reclaimer.run, self._store, self._clock, RECLAIM_S)),
        ):
            group.create_task(work)

    async def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` for ever; what it did not expect is logged, and it begins again."""
        while True:
            try:
                await work()
            except Exception:  # devices and running pods outlive a mistake of ours
                log.exception("a part of the pod room failed", part=name)
            await self._clock.sleep(AGAIN_S)

    async def _open_tokens(self) -> "Tokens":
        """The node's own key for service accounts; a disk without room for it is waited for."""
        from edgecore.pods.tokens import Tokens  # noqa: PLC0415  as above

        while True:
            try:
                return Tokens.open(self._directory, self.objects, self._clock)
            except OSError as error:
                self._unhealthy = f"no key for service accounts: {error.strerror}"
                log.warning("pods wait", reason=self._unhealthy)
            await self._clock.sleep(DETECT_S)

    def _assemble(self, runtime: ContainerRuntime, builder: "Builder") -> None:
        """Put together what works on pods."""
        from edgecore.pods import (  # noqa: PLC0415  as above
            checks,
            controller,
            executor,
            hooks,
            image_gc,
            observer,
            reporting,
            upkeep,
        )

        around, clock, settings, node = self._around, self._clock, self._settings, self._around.facts().name
        sight = self.observer = observer.Observer(runtime, node)
        asks = checks.Checks(runtime)
        hooked = hooks.LifecycleHooks(asks, clock, self._address_of)
        hands = executor.Executor(
            runtime, builder, sight, self.events, hooked, clock=clock, node=node, parallel=settings.parallel
        )
        self.reporter = reporting.Reporter(self.writer, self.events, clock, self._boot)
        hands.host_ips = self.reporter.host_ips = lambda: around.facts().addresses
        self.probes = probes.Probes(
            asks,
            self.timers,
            self.events,
            clock=clock,
            rng=self._rng,
            metrics=self._metrics,
            target=self._address_of,
        )
        self.controller = controller.PodController(
            self._store,
            runtime,
            sight,
            hands,
            self.reporter,
            self.probes,
            writer=self.writer,
            events=self.events,
            timers=self.timers,
            clock=clock,
            room=self._room_left,
            synced=around.synced,
        )
        limits = image_gc.Limits(
            settings.image_gc_high_percent, settings.image_gc_low_percent, settings.image_min_age_s
        )
        collector = image_gc.ImageCollector(runtime, self.objects, clock, limits, metrics=self._metrics)
        self._upkeep = upkeep.Upkeep(
            runtime, builder, self.controller, sight, collector, settings, free=around.free, clock=clock
        )

    # inside

    def _trouble(self) -> str:
        """Why the runtime cannot be used; "" while it can, and while it may just be restarting."""
        trouble = (self.controller.away if self.controller is not None else "") or self._unhealthy
        if not trouble:
            self._down_since_s = None
            return ""
        now_s = self._clock.now_s()
        if self._down_since_s is None:
            self._down_since_s = now_s
        return trouble if now_s - self._down_since_s >= PATIENCE_S or self._version == "none://" else ""

    def _count(self) -> float:
        return float(len(self.controller.entries)) if self.controller is not None else 0.0

    def _address_of(self, pod: Json) -> str:
        """Where the pod listens, as seen from here."""
        if pod["spec"].get("hostNetwork"):
            return next(iter(self._around.facts().addresses), "127.0.0.1")
        assert self.observer is not None
        sandbox = self.observer.of(pod["metadata"]["uid"]).newest_sandbox()
        return sandbox.ips[0] if sandbox is not None and sandbox.ips else "127.0.0.1"

    def _room_left(self) -> admission.NodeRoomLeft:
        facts, settings = self._around.facts(), self._settings
        allocatable = {**self._around.allocatable(), "pods": self._settings.max_pods}
        thresholds = zip(self._around.free(), (settings.evict_memory_bytes, settings.evict_disk_bytes), strict=True)
        dry = [name for name, (free, least) in zip(admission.PRESSURES, thresholds, strict=True) if free < least]
        return admission.NodeRoomLeft(facts.name, facts.labels, allocatable, frozenset(dry))

    async def _watch_health(self, name: str) -> None:
        """Ask the runtime how it is; its name and version are asked again after it was away."""
        assert self.runtime is not None
        known = False
        while True:
            try:
                if not known:
                    version = await self.runtime.version()
                    self._name_runtime(version)
                    known = True
                    await choice.remember(self._db, name)
                health = await self.runtime.health()
                self._unhealthy = "" if health.ready and health.network_ready else health.message or health.reason
            except RuntimeAway as error:
                known, self._unhealthy = False, str(error)
            except RuntimeRefused as error:
                self._unhealthy = str(error)
            self._trouble()
            await self._clock.sleep(HEALTH_S if known and not self._unhealthy else 1.0)

    def _name_runtime(self, version: Version) -> None:
        """Statuses that name containers wait for this."""
        first, self.reporter.runtime = not self.reporter.runtime, version.name
        self._version = f"{version.name}://{version.version}"
        if first and self.controller is not None:
            for entry in list(self.controller.entries.values()):
                self.controller.wake(entry)

    async def _watch_images(self) -> None:
        assert self.runtime is not None
        while True:
            with suppress(RuntimeAway, RuntimeRefused):
                found = await self.runtime.images()
                largest = sorted(found, key=lambda image: (-image.size_bytes, image.id))[:TOP_IMAGES]
                self._images = tuple(((*i.digests, *i.tags), i.size_bytes) for i in largest if i.digests or i.tags)
            await self._clock.sleep(IMAGES_S)

    def _object_changed(self, event: Event) -> None:
        if self._upkeep is not None:
            self._upkeep.object_changed(event.stored.namespace)

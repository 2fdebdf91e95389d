"""Removes images that nobody needs when the disk gets full (IMG-5).

Needed is what a container uses, what a pod or a CronJob of this node names (without a network it could not come back), the
sandbox's own image, and what is pinned. The others go, least lately used first, those from files last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import statvfs
from typing import Any, Protocol

from edgecore.pods.lookups import Objects
from edgecore.pods.references import parse
from edgecore.pods.runtime import Container, Filesystem, Image, RuntimeAway, RuntimeRefused
from proto.kit.clock import Clock
from proto.kit.log import Logger
from proto.kit.metrics import Metrics

Json = dict[str, Any]
log = Logger("pods")
TEMPLATES = (
    "batch/cronjobs",
    "batch/jobs",
    "apps/daemonsets",
    "apps/deployments",
    "apps/statefulsets",
    "apps/replicasets",
)
SANDBOX_NAMES = ("pause", "mirrored-pause")  # last word of the repository; older runtimes do not pin it


class Store(Protocol):
    """What this room needs of a ContainerRuntime."""

    async def images(self) -> list[Image]: ...
    async def containers(self) -> list[Container]: ...
    async def remove_image(self, image_id: str) -> None: ...
    async def image_filesystem(self) -> Filesystem: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Use of the disk in percent: collect from ``high`` on, down to ``low``. An image unused for less than ``min_age_s`` stays."""

    high_percent: int = 85
    low_percent: int = 80
    min_age_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that images are on."""

    size_bytes: int
    free_bytes: int

    @property
    def used_percent(self) -> float:
        return 100.0 * (1 - self.free_bytes / self.size_bytes) if self.size_bytes else 0.0


@dataclass(slots=True)
class Collected:
    """What one collection did. ``short_bytes``: how much it could not free."""

    removed: list[Image] = field(default_factory=list)
    freed_bytes: int = 0
    short_bytes: int = 0
    failed: list[str] = field(default_factory=list)


def disk_of(path: str) -> Disk:
    """Return the disk below ``path``. Raises OSError."""
    found = statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def pick(
    images: Iterable[Image],
    needed: set[str],
    last_used: Mapping[str, float],
    now_s: float,
    *,
    bytes_: int,
    min_age_s: float,
) -> list[Image]:
    """Return which images go to free ``bytes_``, the least lately used first (pure). ``needed`` holds ids.

    An image without a digest came from a file: no registry brings it back, so it goes after the others.
    """
    old = [
        image
        for image in images
        if image.id not in needed and not image.pinned and now_s - last_used.get(image.id, now_s) >= min_age_s
    ]
    old.sort(key=lambda image: (not image.digests, last_used.get(image.id, now_s), -image.size_bytes))
    out, freed = [], 0
    for image in old:
        if freed >= bytes_:
            break
        out.append(image)
        freed += image.size_bytes
    return out


class ImageCollector:
    """One per node. ``turn`` now and then; ``prune`` when somebody wants everything gone that can go."""

    def __init__(
        self,
        runtime: Store,
        objects: Objects,
        clock: Clock,
        limits: Limits,
        *,
        metrics: Metrics | None = None,
        disk: Callable[[str], Disk] = disk_of,
    ) -> None:
        self._runtime, self._objects, self._clock, self._limits, self._disk = runtime, objects, clock, limits, disk
        self._last_used: dict[str, float] = {}
        self._removed = (metrics or Metrics()).counter(
            "skerry_edge_images_removed_total", "Images removed because the disk was getting full."
        )

    async def turn(self) -> Collected:
        """Collect if the disk is fuller than it should be. Raises RuntimeAway, RuntimeRefused, OSError."""
        images, needed = await self.look()
        disk = self._disk((await self._runtime.image_filesystem()).path)
        if disk.used_percent < self._limits.high_percent:
            return Collected()
        wanted = disk.size_bytes * (100 - self._limits.low_percent) // 100 - disk.free_bytes
        return await self._remove(images, needed, wanted, self._limits.min_age_s)

    async def prune(self, *, all_unused: bool = True) -> Collected:
        """Remove what nobody needs, whatever the disk says; not ``all_unused``: only images without a name."""
        images, needed = await self.look()
        if not all_unused:
            images = [image for image in images if not image.tags]
        everything = sum(image.size_bytes for image in images) + 1
        done = await self._remove(images, needed, everything, 0.0)
        done.short_bytes = 0
        return done

    async def look(self) -> tuple[list[Image], set[str]]:
        """Return all images, and the ids of those that are needed. Raises RuntimeAway, RuntimeRefused."""
        images, containers = await self._runtime.images(), await self._runtime.containers()
        now_s = self._clock.now_s()
        self._last_used = {image.id: self._last_used.get(image.id, now_s) for image in images}
        used = {name for container in containers for name in (container.image, container.image_ref) if name}
        in_use = {image.id for image in images if used & names_of(image)}
        for image_id in in_use:
            self._last_used[image_id] = now_s
        wanted = named_by(self._objects)
        kept = {image.id for image in images if wanted & names_of(image) or _is_sandbox(image)}
        return images, in_use | kept

    async def _remove(self, images: list[Image], needed: set[str], bytes_: int, min_age_s: float) -> Collected:
        out = Collected()
        now_s = self._clock.now_s()
        for image in pick(images, needed, self._last_used, now_s, bytes_=bytes_, min_age_s=min_age_s):
            try:
                await self._runtime.remove_image(image.id)
            except (RuntimeRefused, RuntimeAway) as error:
                out.failed.append(f"{shown(image)}: {error}")
                continue
            self._last_used.pop(image.id, None)
            self._removed.inc()
            log.info("image removed", image=shown(image), bytes=image.size_bytes)
            out.removed.append(image)
            out.freed_bytes += image.size_bytes
        out.short_bytes = max(0, bytes_ - out.freed_bytes)
        return out


def named_by(objects: Objects) -> set[str]:
    """Return the full references that pods of this node name, and those that its workloads will name."""
    out: set[str] = set()
    pods = [pod.get("spec") for pod in objects.list("pods", None)]
    for plural in TEMPLATES:
        for held in objects.list(plural, None):
            spec = held.get("spec") or {}
            spec = (spec.get("jobTemplate") or {}).get("spec") or spec
            pods.append((spec.get("template") or {}).get("spec"))
    for found in pods:
        for key in ("initContainers", "containers", "ephemeralContainers"):
            for container in (found or {}).get(key) or ():
                out |= full(str(container.get("image") or ""))
    return out


def names_of(image: Image) -> set[str]:
    """Return every name an image goes by: its id, tags and digests, as written and in full."""
    written = {image.id, *image.tags, *image.digests}
    return written.union(*(full(name) for name in (*image.tags, *image.digests)))


def full(text: str) -> set[str]:
    try:
        return {text, str(parse(text))}
    except ValueError:
        return {text} - {""}


def shown(image: Image) -> str:
    """Return the name by which people know an image."""
    return next(iter((*image.tags, *image.digests)), image.id)


def _is_sandbox(image: Image) -> bool:
    last = {tag.rpartition("@")[0] or tag for tag in (*image.tags, *image.digests)}
    return any(tag.rpartition("/")[2].partition(":")[0] in SANDBOX_NAMES for tag in last)

"""The volumes of pods on this node's disk and memory: made, kept up to date, measured and taken away.

``<data-dir>/pods/<uid>/volumes/<name>`` on disk; secrets, tokens and the downward API below a tmpfs, so that they never rest on
a disk (VOL-1). Everything here may be interrupted at any point and begun again.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecore.pods import atomic, hostpaths, mounts, ownership, projected, usage
from edgecore.pods.facts import NodeFacts
from edgecore.pods.localpath import LocalPaths
from edgecore.pods.lookups import Objects
from edgecore.pods.poddirs import PodDirs
from edgecore.pods.projected import Sources
from edgecore.pods.tokens import Tokens
from edgecore.pods.unready import Unready, failed_mount
from kubeapi import quantities
from proto.kit.clock import Clock
from proto.kit.log import Logger

Json = dict[str, Any]
log = Logger("pods")
WRITTEN = ("configMap", "secret", "downwardAPI", "projected")
IN_MEMORY = ("secret", "downwardAPI", "projected")
KNOWN = ("emptyDir", "hostPath", *WRITTEN, "persistentVolumeClaim", "ephemeral")
EMPTY_MODE = 0o777
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Ready:
    """A volume as containers mount it. ``own``: its owner and rights are ours to change."""

    path: Path
    readonly: bool = False
    own: bool = True


class Volumes:
    """All volumes of this node's pods."""

    def __init__(
        self,
        dirs: PodDirs,
        objects: Objects,
        tokens: Tokens,
        facts: Callable[[], NodeFacts],
        *,
        local: LocalPaths,
        root_ca: Path,
        clock: Clock,
    ) -> None:
        self.dirs = dirs
        self.local = local
        self._objects, self._tokens, self._facts = objects, tokens, facts
        self._root_ca = root_ca
        self._clock = clock

    async def prepare(self, pod: Json) -> None:
        """Make every volume that a container mounts. Raises Unready for the first that cannot be made."""
        refuse_devices(pod)
        for volume in used(pod):
            kind = kind_of(volume)
            try:
                if kind in WRITTEN:
                    self._write(pod, volume)
                elif kind == "emptyDir":
                    await self._empty(pod, volume)
                elif kind == "hostPath":
                    hostpaths.check(volume["hostPath"])
                else:
                    ready = self.ready(pod, volume)
                    if ready.own and not ready.readonly:
                        await self._own(pod, ready.path)
            except ValueError as error:
                raise failed_mount(volume["name"], str(error)) from error
            except OSError as error:
                raise failed_mount(
                    volume["name"], f"{error.filename or ''} {error.strerror or error}".strip()
                ) from error

    async def refresh(self, pod: Json) -> None:
        """Bring the files of a running pod up to date; what cannot be found keeps its old content. Raises Unready at the end."""
        missing: Unready | None = None
        for volume in used(pod):
            if kind_of(volume) not in WRITTEN:
                continue
            try:
                self._write(pod, volume)
            except Unready as error:
                missing = missing or error
            except (ValueError, OSError) as error:
                missing = missing or failed_mount(volume["name"], str(error))
        if missing is not None:
            raise missing

    def ready(self, pod: Json, volume: Json) -> Ready:
        """Return where a prepared volume is. Raises ValueError, OSError."""
        kind, name = kind_of(volume), volume["name"]
        if kind == "hostPath":
            return Ready(Path(volume["hostPath"].get("path", "")), own=False)
        if kind in WRITTEN:
            return Ready(self._place(pod, volume), readonly=True)
        if kind == "emptyDir":
            return Ready(self._place(pod, volume))
        claim = volume.get("persistentVolumeClaim") or {}
        ephemeral = kind == "ephemeral"
        claimed = f"{pod['metadata']['name']}-{name}" if ephemeral else claim.get("claimName", "")
        found = self.local.claimed(pod, claimed, self._facts(), owned=ephemeral)
        return Ready(found.path, found.readonly or bool(claim.get("readOnly")), own=not found.shared)

    async def usage(self, pod: Json) -> dict[str, int]:
        """Return the bytes in each emptyDir of the pod, by volume name."""
        places = {v["name"]: self._place(pod, v) for v in used(pod) if kind_of(v) == "emptyDir"}
        return await asyncio.to_thread(usage.of_each, places)

    async def over_limit(self, pod: Json) -> str:
        """Return why the pod must go: an emptyDir larger than its sizeLimit; "" for nothing."""
        limits = {}
        for volume in used(pod):
            limit = (volume.get("emptyDir") or {}).get("sizeLimit")
            if limit is not None:
                limits[volume["name"]] = (str(limit), quantities.units(limit))
        if not any(size for _, size in limits.values()):
            return ""
        taken = await self.usage(pod)
        for name, (text, size) in limits.items():
            if size and taken.get(name, 0) > size:
                return f'Usage of EmptyDir volume "{name}" exceeds the limit "{text}". '
        return ""

    def _write(self, pod: Json, volume: Json) -> None:
        place = self._place(pod, volume)
        sources = Sources(
            self._objects,
            self._facts(),
            self._tokens,
            root_ca=self._read_root_ca,
            held=lambda path: atomic.read(place, path),
        )
        files = projected.files_of(pod, volume, sources)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write(place, files, self._clock, group=fs_group(pod))

    async def _empty(self, pod: Json, volume: Json) -> None:
        source = volume.get("emptyDir") or {}
        medium = source.get("medium") or ""
        if medium not in {"", "Memory"}:
            raise ValueError(
                f"medium {medium} of an emptyDir is not supported on this node: it knows Memory and the disk"
            )
        place = self._place(pod, volume)
        place.mkdir(parents=True, exist_ok=True)
        if medium == "Memory" and self.dirs.mounting and not mounts.below(place):
            mounts.tmpfs(place, quantities.units(source["sizeLimit"]) if source.get("sizeLimit") else 0)
        if place.stat().st_mode & EMPTY_MODE != EMPTY_MODE:
            place.chmod(EMPTY_MODE)
        await self._own(pod, place)

    async def _own(self, pod: Json, path: Path) -> None:
        group = fs_group(pod)
        if group is not None:
            policy = (pod["spec"].get("securityContext") or {}).get("fsGroupChangePolicy")
            await asyncio.to_thread(ownership.give, path, group, policy)

    def _place(self, pod: Json, volume: Json) -> Path:
        name = volume["name"]
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no volume name")
        source = volume.get("emptyDir") or {}
        memory = kind_of(volume) in IN_MEMORY or (source.get("medium") == "Memory" and not self.dirs.mounting)
        return self.dirs.volume(pod["metadata"]["uid"], name, memory=memory)

    def _read_root_ca(self) -> bytes | None:
        try:
            return self._root_ca.read_bytes()
        except FileNotFoundError:
            return None


def kind_of(volume: Json) -> str:
    """Return what a volume is made of. Raises Unready for what this node does not know."""
    kinds = [key for key in volume if key != "name" and volume[key] is not None]
    if not kinds:
        return "emptyDir"
    if kinds[0] not in KNOWN:
        raise failed_mount(
            volume["name"], f"volumes of kind {kinds[0]} are not supported on this node: it knows {', '.join(KNOWN)}"
        )
    return kinds[0]


def used(pod: Json) -> list[Json]:
    """Return the volumes that some container mounts."""
    spec = pod.get("spec") or {}
    names = {
        mount.get("name")
        for key in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(key) or ()
        for mount in container.get("volumeMounts") or ()
    }
    return [volume for volume in spec.get("volumes") or () if volume.get("name") in names]


def refuse_devices(pod: Json) -> None:
    """Raises Unready when a container wants a raw block device."""
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        for device in container.get("volumeDevices") or ():
            raise failed_mount(
                device.get("name", ""),
                f"container {container['name']} wants a raw block device (volumeDevices): this node mounts file systems only",
            )


def fs_group(pod: Json) -> int | None:
    """Return the group that owns the pod's volumes, if any."""
    group = ((pod.get("spec") or {}).get("securityContext") or {}).get("fsGroup")
    return group if isinstance(group, int) else None

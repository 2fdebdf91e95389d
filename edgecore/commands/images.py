"""``edgecore images list|import|prune``: the container runtime's images, with or without the daemon and a network."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from edgecore import kinds, offline
from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.data_dir import DataDir
from edgecore.pods import choice, image_gc
from edgecore.pods.image_gc import Collected, ImageCollector, Limits
from edgecore.pods.runtime import ContainerRuntime, Image, RuntimeRefused
from proto.kit.clock import Clock, SystemClock
from proto.kit.errors import SkerryError

Json = dict[str, Any]
COLUMNS = ("IMAGE", "ID", "SIZE", "NEEDED")
TICK_S = 2.0
SHORT_ID = 12
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
EXIT_FAILED = 1


class StoredObjects:
    """Objects of this node's database, read without the daemon (edgecore.pods.lookups.Objects)."""

    def __init__(self, directory: DataDir) -> None:
        self._directory, self._registry = directory, kinds.registry()
        self._held: dict[str, list[Json]] = {}

    def get(self, plural: str, namespace: str, name: str) -> Json | None:
        return next((o for o in self.list(plural, namespace) if o["metadata"]["name"] == name), None)

    def list(self, plural: str, namespace: str | None) -> list[Json]:
        if plural not in self._held:
            group, _, name = plural.rpartition("/")
            resource = self._registry.find(group, "v1", name)
            self._held[plural] = [] if resource is None else offline.objects(self._directory, resource)
        return [o for o in self._held[plural] if namespace in {None, o["metadata"].get("namespace", "")}]


def run(args: argparse.Namespace) -> int:
    directory, clock = data_dir_of(args), SystemClock()
    pods = settings_of(args, directory).pods
    before = offline.read(directory, lambda conn: conn.execute("SELECT name FROM pod_runtime").fetchone())
    name, why = choice.choose(pods, str(before[0]) if before else "")
    if name == choice.NONE:
        raise SkerryError(f"no container runtime on this node: {why}")
    return asyncio.run(_with(choice.open_runtime(name, pods, clock, directory.path), args, directory, clock))


async def _with(runtime: ContainerRuntime, args: argparse.Namespace, directory: DataDir, clock: Clock) -> int:
    collector = ImageCollector(runtime, StoredObjects(directory), clock, Limits(min_age_s=0.0))
    try:
        if args.images_verb == "import":
            return await _import(runtime, args, clock)
        if args.images_verb == "prune":
            done = await collector.prune(all_unused=args.all)
            print(as_json(_pruned(done)) if args.output == "json" else render_pruned(done))
            return EXIT_FAILED if done.failed else 0
        images, needed = await collector.look()
    finally:
        await runtime.close()
    rows = [_row(image, needed) for image in sorted(images, key=image_gc.shown)]
    print(as_json({"version": 1, "items": rows}) if args.output == "json" else render_list(rows))
    return 0


async def _import(runtime: ContainerRuntime, args: argparse.Namespace, clock: Clock) -> int:
    """Import each file; a bad one is a sentence, and the others go on."""
    rows: list[Json] = []
    for archive in args.files:
        row: Json = {"file": str(archive), "images": [], "error": ""}
        rows.append(row)
        try:
            row["images"] = await _one(runtime, archive, clock)
        except RuntimeRefused as error:
            row["error"] = str(error)
            sys.stderr.write(f"edgecore: {error}\n")
            continue
        if args.output != "json":
            print("\n".join(f"imported {name}" for name in row["images"]), flush=True)
    if args.output == "json":
        print(as_json({"version": 1, "items": rows}))
    return EXIT_FAILED if any(row["error"] for row in rows) else 0


async def _one(runtime: ContainerRuntime, archive: Path, clock: Clock) -> list[str]:
    """Raises RuntimeRefused, RuntimeAway."""
    path, size = _file(archive)
    refused: RuntimeRefused | None = None
    found: list[str] = []
    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(_tick(f"importing {archive.name} ({shown_size(size)})", clock))
        try:
            found = await runtime.import_archive(path)
        except RuntimeRefused as error:  # raised below: a TaskGroup would wrap it
            refused = error
        finally:
            ticker.cancel()
    if refused is not None:
        raise refused
    return found


def _file(archive: Path) -> tuple[Path, int]:
    try:
        size = archive.stat().st_size
    except OSError as error:
        raise RuntimeRefused(f"{archive}: {error.strerror}") from error
    if not archive.is_file():
        raise RuntimeRefused(f"{archive} is no file: name an OCI archive or what `docker save` wrote")
    return archive.absolute(), size


async def _tick(what: str, clock: Clock) -> None:
    """Say every now and then that something still goes on."""
    began_s = clock.now_s()
    while True:
        await clock.sleep(TICK_S)
        sys.stderr.write(f"{what}: {clock.now_s() - began_s:.0f} s\n")
        sys.stderr.flush()


def shown_size(size: int) -> str:
    """``17.9 MiB``."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def render_list(rows: list[Json]) -> str:
    """Aligned columns."""
    if not rows:
        return "no images: pods pull theirs, or bring one with `edgecore images import FILE`"
    lines = [
        COLUMNS,
        *((r["name"], r["id"], shown_size(r["size_bytes"]), "yes" if r["needed"] else "no") for r in rows),
    ]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def render_pruned(done: Collected) -> str:
    """What went, what stayed although it should have gone, and how much room that made."""
    lines = [f"removed {image_gc.shown(image)}" for image in done.removed]
    lines += [f"kept {text}" for text in done.failed]
    return "\n".join([*lines, f"freed {shown_size(done.freed_bytes)}" if done.removed else "nothing to remove"])


def _pruned(done: Collected) -> Json:
    removed = [
        {"id": image.id, "name": image_gc.shown(image), "size_bytes": image.size_bytes} for image in done.removed
    ]
    return {"version": 1, "removed": removed, "freed_bytes": done.freed_bytes, "failed": done.failed}


def _row(image: Image, needed: set[str]) -> Json:
    return {
        "name": image_gc.shown(image),
        "id": image.id.removeprefix("sha256:")[:SHORT_ID],
        "tags": list(image.tags),
        "digests": list(image.digests),
        "size_bytes": image.size_bytes,
        "needed": image.id in needed or image.pinned,
    }

"""Which images go when the disk gets full, and which never do (IMG-5)."""

from typing import Any

import pytest

from edgecore.pods.image_gc import Disk, ImageCollector, Limits, named_by, pick
from edgecore.pods.runtime import Container, Image, RuntimeRefused, State
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import HeldObjects, ImageStore, container, pod

GIB = 1 << 30


def image(name: str, size: int = 100, **fields: Any) -> Image:
    return Image(f"sha256:{name}", (f"docker.io/edge/{name}:1",), (), size, **fields)


class Room:
    """A full disk of 1000 bytes and a collector."""

    def __init__(self, *images: Image, free: int = 100) -> None:
        self.store = ImageStore(here={i.tags[0] if i.tags else i.id: i for i in images})
        self.objects, self.clock, self.free = HeldObjects(), ManualClock(), free
        self.collector = ImageCollector(
            self.store, self.objects, self.clock, Limits(), metrics=Metrics(), disk=lambda _: Disk(1000, self.free)
        )

    async def turn(self) -> list[str]:
        await self.collector.turn()
        self.clock.advance(200)
        done = await self.collector.turn()
        return [i.id for i in done.removed]


async def test_nothing_is_removed_while_the_disk_has_room() -> None:
    assert await Room(image("a"), free=160).turn() == []


async def test_a_full_disk_is_freed_to_the_low_mark_and_no_further() -> None:
    room = Room(image("a", 60), image("b", 60), image("c", 60))

    assert len(await room.turn()) == 2  # 100 of the 1000 bytes are free, 200 are wanted


async def test_the_least_lately_used_goes_first() -> None:
    room = Room(image("a"), image("b"))
    await room.collector.turn()
    room.clock.advance(10)
    room.store.running = [Container("c", "s", "app", 0, State.EXITED, 0, image="docker.io/edge/a:1")]
    await room.collector.turn()
    room.store.running = []

    assert await room.turn() == ["sha256:b"]


async def test_an_image_seen_a_moment_ago_stays() -> None:
    room = Room(image("a"))

    done = await room.collector.turn()

    assert (done.removed, done.short_bytes) == ([], 100)


@pytest.mark.parametrize(
    "kept", ["container", "pod", "cronjob", "pinned", "pause"], ids=lambda kept: f"needed by {kept}"
)
async def test_what_is_needed_stays(kept: str) -> None:
    needed = image("pause" if kept == "pause" else "needed", pinned=kept == "pinned")
    room = Room(needed, image("other"))
    named = container(image="edge/needed:1")
    if kept == "container":
        room.store.running = [Container("c", "s", "app", 0, State.RUNNING, 0, image_ref=needed.id)]
    elif kept == "pod":
        room.objects.put("pods", "web", spec=pod(named)["spec"])
    elif kept == "cronjob":
        template = {"template": {"spec": pod(named)["spec"]}}
        room.objects.put("batch/cronjobs", "nightly", spec={"jobTemplate": {"spec": template}})

    assert await room.turn() == ["sha256:other"]


async def test_an_image_that_the_runtime_keeps_does_not_stop_the_others() -> None:
    room = Room(image("a"), image("b"), free=0)
    refuse = room.store.remove_image

    async def remove(image_id: str) -> None:
        if image_id == "sha256:a":
            raise RuntimeRefused("in use")
        await refuse(image_id)

    room.store.remove_image = remove  # type: ignore[method-assign]

    assert await room.turn() == ["sha256:b"]


async def test_prune_takes_what_nobody_needs_and_without_all_only_the_nameless() -> None:
    room = Room(image("a"), Image("sha256:nameless", (), (), 5), free=900)

    assert [i.id for i in (await room.collector.prune(all_unused=False)).removed] == ["sha256:nameless"]
    assert [i.id for i in (await room.collector.prune()).removed] == ["sha256:a"]


def test_pick_stops_when_enough_is_freed() -> None:
    images = [image("a", 10), image("b", 10), image("c", 10)]
    used = {"sha256:a": 3.0, "sha256:b": 1.0, "sha256:c": 2.0}

    picked = pick(images, {"sha256:b"}, used, 1000.0, bytes_=5, min_age_s=100)

    assert [i.id for i in picked] == ["sha256:c"]


def test_what_came_from_a_file_goes_last() -> None:
    pulled = Image("sha256:pulled", ("docker.io/edge/p:1",), ("docker.io/edge/p@sha256:1",), 10)
    used = {"sha256:pulled": 5.0, "sha256:file": 1.0}

    picked = pick([image("file", 10), pulled], set(), used, 1000.0, bytes_=20, min_age_s=100)

    assert [i.id for i in picked] == ["sha256:pulled", "sha256:file"]


def test_init_containers_name_images_too() -> None:
    objects = HeldObjects()
    objects.put("pods", "web", spec=pod(container(), initContainers=[container("first", "busybox")])["spec"])

    assert "docker.io/library/busybox:latest" in named_by(objects)

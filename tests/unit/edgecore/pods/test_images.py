"""Pull policies, back-off and a registry that is away (IMG-1, IMG-2, IMG-3, IMG-4)."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from edgecore.pods.images import Images, explained
from edgecore.pods.runtime import Auth, Image, RuntimeAway, RuntimeRefused
from edgecore.pods.unready import Unready
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import HeldObjects, ImageStore, Said, container, dockerconfig, pod

REF = "docker.io/edge/app:1"
IMAGE = Image("sha256:1", (REF,), size_bytes=7)
AWAY = RuntimeRefused(
    'failed to do request: Head "https://registry": dial tcp 192.0.2.1:443: i/o timeout', "ErrImagePull"
)


class Room:
    def __init__(self, *, here: bool = False, there: bool = True, online: bool = True) -> None:
        self.store = ImageStore({REF: IMAGE} if here else {}, {REF: IMAGE} if there else {})
        self.objects, self.clock, self.said, self.online = HeldObjects(), ManualClock(), Said(), online
        self.images = Images(self.store, self.objects, self.clock, say=self.said, online=lambda: self.online)

    async def ensure(self, policy: str = "IfNotPresent", image: str = "edge/app:1", **fields: Any) -> Image:
        held = container(image=image, imagePullPolicy=policy)
        return await self.images.ensure(pod(held, **fields), held)

    async def refused(self, policy: str = "IfNotPresent", image: str = "edge/app:1") -> Unready:
        with pytest.raises(Unready) as caught:
            await self.ensure(policy, image)
        return caught.value


@pytest.mark.parametrize(
    ("policy", "here", "pulls"),
    [
        ("IfNotPresent", True, 0),
        ("IfNotPresent", False, 1),
        ("Always", True, 1),
        ("Always", False, 1),
        ("Never", True, 0),
    ],
)
async def test_the_policy_decides_about_a_pull(policy: str, here: bool, pulls: int) -> None:
    room = Room(here=here)

    assert await room.ensure(policy) == IMAGE

    assert len(room.store.pulls) == pulls
    assert room.said.reasons == (["Pulling", "Pulled"] if pulls else ["Pulled"])


async def test_never_means_never() -> None:
    error = await Room().refused("Never")

    assert (error.reason, str(error)) == (
        "ErrImageNeverPull",
        'Container image "edge/app:1" is not present with pull policy of Never',
    )


async def test_a_name_that_is_none_is_said() -> None:
    error = await Room().refused(image="Edge/App::1")

    assert error.reason == "InvalidImageName"
    assert "invalid reference format" in str(error)


async def test_failures_back_off_from_ten_seconds_to_five_minutes() -> None:
    room = Room(there=False)
    pulled_at: list[float] = []
    began_s, looks = room.clock.now_s(), 0
    while len(pulled_at) < 7:
        error = await room.refused()
        looks += 1
        if error.reason == "ErrImagePull":
            pulled_at.append(room.clock.now_s() - began_s)
        else:
            assert (error.reason, "ErrImagePull: not found" in str(error)) == ("ImagePullBackOff", True)
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 10  # somebody may bring the image in a file
        room.clock.advance(error.retry_after_s)

    assert [b - a for a, b in pairwise(pulled_at)] == [10, 20, 40, 80, 160, 300]
    assert len(room.store.pulls) == 7
    assert looks == 7 + 55
    assert room.said.reasons.count("BackOff") == 5  # once in each delay that had a look in it


async def test_an_image_that_comes_in_a_file_ends_the_wait_for_a_registry_that_is_silent() -> None:
    room = Room(there=False)
    room.store.refusal = AWAY
    waiting = {policy: (await room.refused(policy)).reason for policy in ("IfNotPresent", "Always")}

    room.store.here[REF] = IMAGE

    assert waiting == {"IfNotPresent": "ErrImagePull", "Always": "ImagePullBackOff"}
    assert [await room.ensure("IfNotPresent"), await room.ensure("Always")] == [IMAGE, IMAGE]
    assert len(room.store.pulls) == 1


async def test_an_image_that_comes_in_a_file_does_not_overrule_a_registry_that_said_no() -> None:
    room = Room(there=False)
    room.store.refusal = RuntimeRefused("pull access denied, repository does not exist")
    await room.refused("Always")

    room.store.here[REF] = IMAGE

    assert (await room.refused("Always")).reason == "ImagePullBackOff"


async def test_a_success_ends_the_back_off() -> None:
    room = Room(there=False)
    await room.refused()
    room.store.registry[REF] = IMAGE
    room.clock.advance(10)

    assert await room.ensure() == IMAGE
    room.store.here.clear()
    room.store.registry.clear()
    assert (await room.refused()).retry_after_s == 10


async def test_without_a_registry_the_way_out_is_named() -> None:
    room = Room(there=False, online=False)
    room.store.refusal = AWAY

    error = await room.refused()

    assert 'image "edge/app:1" is not on this node and registry docker.io does not answer' in str(error)
    assert "edgecore images import FILE" in str(error)


async def test_always_runs_what_is_here_when_no_registry_answers() -> None:
    room = Room(here=True, there=False)
    room.store.refusal = AWAY

    assert await room.ensure("Always") == IMAGE
    assert await room.ensure("Always") == IMAGE

    assert len(room.store.pulls) == 1  # a silent registry is not asked for every container
    assert "ImageNotChecked" in room.said.reasons
    room.clock.advance(61)
    await room.ensure("Always")
    assert len(room.store.pulls) == 2


async def test_always_believes_a_registry_that_says_no() -> None:
    room = Room(here=True, there=False)
    room.store.refusal = RuntimeRefused("pull access denied, repository does not exist")

    assert (await room.refused("Always")).reason == "ErrImagePull"


async def test_latest_is_always_asked_for_unless_the_pod_says_otherwise() -> None:
    room = Room()
    room.store.here["docker.io/edge/app:latest"] = room.store.registry["docker.io/edge/app:latest"] = IMAGE
    held = container(image="edge/app")

    await room.images.ensure(pod(held), held)

    assert [name for name, _ in room.store.pulls] == ["docker.io/edge/app:latest"]


async def test_credentials_are_tried_in_order() -> None:
    room = Room()
    room.store.accepts = Auth("right", "p")
    room.objects.put("secrets", "s", **dockerconfig({"docker.io/edge": ("wrong", "p"), "docker.io": ("right", "p")}))

    assert await room.ensure(imagePullSecrets=[{"name": "s"}]) == IMAGE
    assert [auth.username for _, auth in room.store.pulls if auth] == ["wrong", "right"]


async def test_a_missing_pull_secret_is_said_and_the_pull_is_tried_without() -> None:
    room = Room()

    assert await room.ensure(imagePullSecrets=[{"name": "s"}]) == IMAGE
    assert ("Warning", "FailedToRetrieveImagePullSecret", 'pull secret "s" not found') in room.said.events


async def test_many_pods_share_one_pull_and_its_failure() -> None:
    room = Room()
    gate = asyncio.Event()
    pull = room.store.pull

    async def slow(reference: str, auth: Auth | None = None) -> str:
        await gate.wait()
        return await pull(reference, auth)

    room.store.pull = slow  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(room.ensure("Always")) for _ in range(10)]
        first = tasks[0]
        for _ in range(5):
            await asyncio.sleep(0)
        first.cancel()  # its pod is deleted: somebody else goes on
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()

    assert first.cancelled()
    assert {task.result() for task in tasks[1:]} == {IMAGE}
    assert len(room.store.pulls) == 1


async def test_a_runtime_that_goes_away_is_no_failure_of_the_image() -> None:
    room = Room(here=True)

    async def away(reference: str, auth: Auth | None = None) -> str:
        raise RuntimeAway("no answer")

    pull, room.store.pull = room.store.pull, away  # type: ignore[method-assign]
    with pytest.raises(RuntimeAway):
        await room.ensure("Always")
    room.store.pull = pull  # type: ignore[method-assign]

    assert await room.ensure("Always") == IMAGE
    assert len(room.store.pulls) == 1


async def test_a_pod_that_is_gone_leaves_no_back_off() -> None:
    room = Room(there=False)
    await room.refused()

    room.images.forget("0b8f7a4e-1111-4222-8333-944455556666")

    assert (await room.refused()).reason == "ErrImagePull"


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("dial tcp: lookup r.io: no such host", "does not answer (dial tcp: lookup r.io: no such host)"),
        ('Head "https://r.io/v2": context deadline exceeded', "edgecore images import FILE"),
        ("failed to extract layer: write /x: no space left on device", "edgecore images prune --all"),
        ("pull access denied", "pull access denied"),
        ("mismatched media type", "mismatched media type"),
    ],
)
def test_what_went_wrong_is_told_with_what_to_do(why: str, words: str) -> None:
    assert words in explained(why, "app", "r.io")

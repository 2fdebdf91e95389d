"""The room over a runtime in memory, in manual time: order, faults, and who is left alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from edgecore.pods.marks import MANAGED_BY, POD_UID
from edgecore.pods.runtime import Sandbox, State, Usage
from edgecore.pods.settings import PodsSettings
from kubeapi.kinds import POD
from tests.kit.clock import ManualClock
from tests.kit.memory_runtime import MemoryRuntime
from tests.kit.pods import PodWorld, container, pod, world
from tests.kit.wait import eventually

SETTINGS = PodsSettings(runtime="cri")


class Node:
    """A world in manual time with its runtime."""

    def __init__(self, one: PodWorld, clock: ManualClock, runtime: MemoryRuntime) -> None:
        self.world, self.clock, self.runtime = one, clock, runtime

    def begin(self, settings: PodsSettings = SETTINGS) -> None:
        self.world.begin(settings, lambda *_: self.runtime)
        self.world.room.writer.gather_s = 0.0  # where time stands still, what is said is written as it comes

    async def again(self) -> None:
        """SIGKILL and a new process."""
        await self.world.end()
        await self.world.open()
        self.begin()
        await self.looked()

    async def looked(self) -> None:
        await eventually(lambda: self.world.room.controller is not None and not self.world.room.controller.away)

    async def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time go by with everything that it wakes."""
        for _ in range(int(seconds / step_s)):
            self.clock.advance(step_s)
            for _ in range(20):
                await asyncio.sleep(0)

    def running(self) -> dict[str, int]:
        """Name of each container that runs -> attempt."""
        return {c.name: c.attempt for c in self.runtime.containers_.values() if c.state is State.RUNNING}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    clock = ManualClock()
    async with world(tmp_path / "edge", clock) as one:
        made = Node(one, clock, MemoryRuntime(clock))
        made.begin()
        await made.looked()
        yield made


async def test_a_new_process_finds_its_pods_and_does_nothing(node: Node) -> None:
    """POD-1."""
    await node.world.put(pod("web", container("a"), container("b", readinessProbe={"exec": {"command": ["true"]}})))
    await node.world.ready("web")
    status, version = node.world.status("web"), node.world.told("web")["version"]
    node.runtime.calls.clear()

    await node.again()
    await node.pass_time(5)

    assert node.runtime.made("run_sandbox", "create_container", "start_container", "stop_container") == []
    assert (node.world.status("web"), node.world.told("web")["version"]) == (status, version)


async def test_a_start_is_told_once_and_what_else_was_said_of_it_follows(node: Node) -> None:
    """POD-12."""
    node.world.room.writer.gather_s = 0.5
    await node.world.put(pod("web"))
    await node.world.ready("web")
    told = node.world.told("web")
    before = node.world.events("Started")
    node.clock.advance(0.5)
    await eventually(lambda: node.world.events("Started"))

    assert (told["version"], told["status"]["phase"], before) == (1, "Running", [])
    assert node.world.told("web") == told


async def test_while_the_runtime_is_away_pods_are_left_alone_and_deletions_wait(node: Node) -> None:
    """POD-1."""
    await node.world.put(pod("web"))
    await node.world.ready("web")
    status = node.world.status("web")

    node.runtime.away = "connection refused"
    await node.pass_time(70)
    gone = node.world.room.workloads()
    await node.world.delete("web")
    await node.pass_time(5)
    between = node.world.status("web")
    node.runtime.away = ""
    await node.pass_time(5)
    await eventually(lambda: node.world.messages("pod-gone"))

    assert (gone.ready, "container runtime is down: connection refused" in gone.message) == (False, True)
    assert between == status
    assert node.running() == {}


def stray(uid: str, marks: dict[str, str]) -> Sandbox:
    return Sandbox(f"s-{uid}", "default", uid, uid, 0, State.RUNNING, 1, labels={POD_UID: uid, **marks})


async def test_what_this_disk_never_knew_is_left_until_the_cloud_has_spoken_and_a_minute_more(node: Node) -> None:
    """POD-2."""
    node.runtime.sandboxes_["s-mine"] = stray("mine", {MANAGED_BY: "gw-1"})
    node.runtime.sandboxes_["s-other"] = stray("other", {MANAGED_BY: "gw-2"})
    node.runtime.sandboxes_["s-foreign"] = stray("foreign", {})

    await node.again()
    await node.pass_time(600, 10.0)
    before = set(node.runtime.sandboxes_)
    node.world.synced = True
    await node.pass_time(130, 10.0)
    await eventually(lambda: "s-mine" not in node.runtime.sandboxes_)

    assert before == {"s-mine", "s-other", "s-foreign"}
    assert set(node.runtime.sandboxes_) == {"s-other", "s-foreign"}


async def test_a_known_pod_whose_object_left_while_we_were_down_is_cleaned_up_at_once(node: Node) -> None:
    """POD-2."""
    await node.world.put(pod("web"))
    await node.world.ready("web")
    await node.world.end()
    await node.world.open()
    await node.world.db.tx(lambda tx: node.world.store.remove(tx, POD, "default", "web"))

    node.begin()
    await eventually(lambda: not node.runtime.sandboxes_)

    assert node.world.messages("pod-gone") == []
    await eventually(lambda: not node.world.room.writer.records)


async def test_a_wall_clock_that_jumps_moves_no_deadline_and_no_back_off(node: Node) -> None:
    """POD-8."""
    await node.world.put(pod("job", activeDeadlineSeconds=100, restartPolicy="OnFailure"))
    await node.world.ready("job")

    node.clock.jump_wall(timedelta(days=365))
    await node.pass_time(10)
    (one,) = node.runtime.containers_
    node.runtime.end(one, 1)
    await eventually(lambda: node.running() == {"main": 1})
    node.clock.jump_wall(timedelta(days=-700))
    node.runtime.end("c2", 1)
    await node.pass_time(9)
    waits = node.running()
    await node.pass_time(3)

    assert (waits, node.running()) == ({}, {"main": 2})
    assert node.world.status("job")["phase"] == "Running"


async def test_ids_of_containers_wait_for_the_name_of_the_runtime_and_never_go_without(node: Node) -> None:
    node.runtime.refuse["version"] = "still starting"
    await node.again()
    await node.world.put(pod("web"))
    await eventually(node.running)
    await node.pass_time(5)
    early = node.world.status("web")
    node.runtime.refuse.clear()
    await node.pass_time(5)
    await node.world.ready("web")

    assert [one.get("containerID") for one in early.get("containerStatuses") or []] in ([], [None])
    assert node.world.status("web")["containerStatuses"][0]["containerID"].startswith("memory://")


async def test_a_day_forth_and_back_on_the_wall_clock_moves_no_probe(node: Node) -> None:
    """POD-8."""
    check = {"exec": {"command": ["true"]}, "periodSeconds": 10}
    await node.world.put(pod("web", container(livenessProbe=check)))
    await node.world.ready("web")
    await node.pass_time(15)
    counts = []
    for days in (0, 1, -2, 1):
        node.clock.jump_wall(timedelta(days=days))
        node.runtime.calls.clear()
        await node.pass_time(60)
        counts.append(len(node.runtime.made("exec_sync")))

    assert counts == [6, 6, 6, 6]
    assert node.running() == {"main": 0}


async def test_a_deadline_goes_on_over_a_restart_of_edgecore(node: Node) -> None:
    """POD-8."""
    await node.world.put(pod("job", activeDeadlineSeconds=100, restartPolicy="Never"))
    await node.world.ready("job")
    await node.pass_time(60)

    await node.again()
    await node.pass_time(30)
    before = node.world.status("job")["phase"]
    await node.pass_time(20)
    await node.world.phase("job", "Failed")

    assert before == "Running"
    assert node.world.status("job")["reason"] == "DeadlineExceeded"


@pytest.mark.parametrize(
    ("off", "phase"),
    [(timedelta(minutes=5), "Failed"), (timedelta(seconds=10), "Running"), (timedelta(days=-1), "Running")],
)
async def test_over_a_power_cut_a_deadline_counts_from_the_start_of_the_pod(
    node: Node, off: timedelta, phase: str
) -> None:
    """POD-8."""
    await node.world.put(pod("job", activeDeadlineSeconds=100, restartPolicy="OnFailure"))
    await node.world.ready("job")
    await node.pass_time(60)

    node.runtime.power_cut()
    node.world.boot_id = "boot-2"
    node.clock.jump_wall(off)
    await node.again()
    await node.pass_time(10)

    assert node.world.status("job")["phase"] == phase


async def test_a_sandbox_that_is_refused_is_tried_again_with_growing_patience(node: Node) -> None:
    node.runtime.refuse["run_sandbox"] = "no addresses left"
    await node.world.put(pod("web"))
    await eventually(lambda: node.world.events("FailedCreatePodSandBox"))
    await node.pass_time(16)
    node.runtime.refuse.clear()
    await node.pass_time(20)
    await node.world.ready("web")

    tried = node.runtime.made("run_sandbox")
    assert tried[:4] == ["run_sandbox web 0", "run_sandbox web 1", "run_sandbox web 2", "run_sandbox web 3"]
    assert len(tried) <= 6


async def test_a_container_that_cannot_be_started_says_so_and_does_not_spin(node: Node) -> None:
    node.runtime.refuse["start_container"] = "exec: nothing: not found"
    await node.world.put(pod("web"))
    await eventually(
        lambda: node.world.state("web").get("state", {}).get("waiting", {}).get("reason") == "RunContainerError"
    )
    await node.pass_time(25)

    assert node.world.state("web")["state"]["waiting"]["message"] == "exec: nothing: not found"
    assert 2 <= len(node.runtime.made("start_container")) <= 4


async def test_one_pod_that_waits_holds_no_other_back(node: Node) -> None:
    await node.world.put(pod("slow", container(image="registry.example/missing:1")))
    await eventually(lambda: "ErrImagePull" in str(node.world.status("slow")))

    await node.world.put(pod("quick"))
    await node.world.ready("quick")


async def test_a_shorter_grace_takes_over_while_a_container_is_stopping(node: Node) -> None:
    """POD-7."""
    node.runtime.stubborn = True
    await node.world.put(pod("web", terminationGracePeriodSeconds=600))
    await node.world.ready("web")

    await node.world.delete("web")
    await eventually(lambda: node.runtime.made("stop_container"))
    await node.world.delete("web", grace_s=5)
    await eventually(lambda: len(node.runtime.made("stop_container")) == 2)
    await node.pass_time(7)
    await eventually(lambda: node.world.messages("pod-gone"))

    assert node.runtime.made("stop_container") == ["stop_container c1 600", "stop_container c1 5"]


async def test_a_pod_made_again_under_the_same_name_gets_its_own_status(node: Node) -> None:
    """POD-12."""
    await node.world.put(pod("web", uid="first"))
    await node.world.ready("web")
    await node.world.remove("web")
    await node.world.put(pod("web", uid="second"))
    await node.world.ready("web")
    await eventually(lambda: "s-first-0" not in node.runtime.sandboxes_)

    assert node.world.told("web")["uid"] == "second"
    assert list(node.runtime.sandboxes_) == ["s-second-0"]


async def test_an_unchanged_status_is_not_written_again_and_a_version_only_grows(node: Node) -> None:
    """POD-12."""
    await node.world.put(pod("web"))
    await node.world.ready("web")
    before = node.world.told("web")["version"]

    await node.pass_time(200, 5.0)
    quiet = node.world.told("web")["version"]
    await node.again()
    node.runtime.end("c1", 1)
    await eventually(lambda: node.world.told("web")["version"] > before)

    assert quiet == before


async def test_the_status_of_a_static_pod_waits_for_its_mirror_and_goes_under_its_uid(node: Node) -> None:
    """POD-12."""
    static = pod("static-gw-1", uid="static")
    static["metadata"]["annotations"] = {
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.hash": "static",
        "edge.skerry.io/manifest": "gone.yaml@0",
    }
    (node.world.directory.path / "manifests").mkdir(exist_ok=True)
    await node.world.put(static)
    await node.world.ready("static-gw-1")
    before = node.world.told("static-gw-1")

    node.world.mirrors["core/pods/default/static-gw-1"] = "mirror"
    node.world.room.writer.mirrors_changed()
    await eventually(lambda: node.world.told("static-gw-1"))

    assert before == {}
    assert node.world.told("static-gw-1")["uid"] == "mirror"


async def test_what_has_run_here_is_not_admitted_a_second_time(node: Node) -> None:
    """POD-13."""
    await node.world.put(pod("big", container(resources={"requests": {"cpu": "3"}})))
    await node.world.ready("big")
    node.world.cpu_milli = 1000

    await node.again()
    await node.pass_time(5)
    await node.world.put(pod("late", container(resources={"requests": {"cpu": "500m"}})))
    await node.world.phase("late", "Failed")

    assert node.running() == {"main": 0}
    assert node.world.status("late")["reason"] == "OutOfcpu"


async def test_short_memory_evicts_one_pod_after_a_while(node: Node) -> None:
    """POD-15."""
    await node.world.put(pod("small", priority=5))
    await node.world.put(pod("large", priority=5))
    await node.world.ready("small", "large")
    owner = {s.name: c.id for c in node.runtime.containers_.values() for s in [node.runtime.sandboxes_[c.sandbox_id]]}
    node.runtime.used = [Usage(owner["small"], 0, 0, 1 << 20), Usage(owner["large"], 0, 0, 90 << 20)]

    node.world.free = (1 << 20, 1 << 40)
    await node.pass_time(20)
    calm = node.world.status("large")["phase"]
    await node.pass_time(30)
    node.world.free = (1 << 40, 1 << 40)
    await node.world.phase("large", "Failed")

    assert calm == "Running"
    assert node.world.status("large")["reason"] == "Evicted"
    assert node.world.is_ready("small")
    assert [e["reason"] for e in node.world.events("Evicted")] == ["Evicted"]


def waits(node: Node) -> str:
    """Why the container of ``web`` is not running."""
    reason: str = node.world.state("web").get("state", {}).get("waiting", {}).get("reason", "")
    return reason


async def test_a_person_s_restart_waits_for_no_back_off(node: Node) -> None:
    """POD-6."""
    await node.world.put(pod("web"))
    await node.world.ready("web")
    node.runtime.end("c1", 1)
    await node.pass_time(2)
    await eventually(lambda: node.running() == {"main": 1})
    node.runtime.end("c2", 1)
    await node.pass_time(2)
    await eventually(lambda: waits(node) == "CrashLoopBackOff")

    refused = node.world.room.restart("default", "web", "")

    await eventually(lambda: node.running() == {"main": 2})
    assert refused == ""


async def test_what_is_over_is_not_restarted(node: Node) -> None:
    """POD-6."""
    await node.world.put(pod("web", restartPolicy="Never"))
    await node.world.ready("web")
    node.runtime.end(next(iter(node.runtime.containers_)), 0)
    await node.world.phase("web", "Succeeded")

    assert "web runs now" in node.world.room.restart("default", "web", "")


async def test_a_pull_that_failed_is_tried_at_once_when_a_person_asks(node: Node) -> None:
    """POD-6."""
    await node.world.put(pod("web", container(image="registry.example/shop/app:2")))
    await eventually(lambda: waits(node) == "ErrImagePull")
    await node.pass_time(2)
    before = node.runtime.made("pull")

    refused = node.world.room.restart("default", "web", "")

    await eventually(lambda: node.runtime.made("pull") == ["pull registry.example/shop/app:2"] * 2)
    assert (refused, len(before)) == ("", 1)

"""Calls at the node, over a runtime that is only lists: who is meant, what is refused and how, and the figures."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from edgecore import kinds
from edgecore.pods.calls import DEFAULT_CONTAINER, PodCalls
from edgecore.pods.marks import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from edgecore.pods.runtime import Container, ContainerRuntime, Filesystem, Sandbox, State, Usage
from kubeapi.store import Store
from proto.calls import Call, CallRefused
from proto.kit.channels import STDIN, STDOUT, Channels, local_pair
from proto.kit.clock import SystemClock
from proto.kit.database import Database
from tests.kit.streams import all_of

UID = "u-1"
LABELS = {POD_UID: UID, POD_NAME: "web", POD_NAMESPACE: "default", CONTAINER_NAME: "app"}


@dataclass
class ListRuntime:
    """What a runtime would list; exec and the like say what they were asked."""

    held: list[Container] = field(default_factory=list)
    pods: list[Sandbox] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    used: list[Usage] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    async def containers(self) -> list[Container]:
        return self.held

    async def sandboxes(self) -> list[Sandbox]:
        return self.pods

    async def container_status(self, container_id: str) -> Container:
        found = next(c for c in self.held if c.id == container_id)
        return Container(**{f: getattr(found, f) for f in found.__slots__} | {"log_path": self.logs[container_id]})

    async def usage(self) -> list[Usage]:
        return self.used

    async def image_filesystem(self) -> Filesystem:
        return Filesystem("/nowhere", 5)

    async def exec(self, container_id: str, argv: tuple[str, ...], **wanted: bool) -> Channels:
        self.asked.append((container_id, argv, wanted))
        return local_pair()[0]

    async def attach(self, container_id: str, **wanted: bool) -> Channels:
        self.asked.append((container_id, wanted))
        return local_pair()[0]

    async def port_forward(self, sandbox_id: str, port: int) -> Channels:
        self.asked.append((sandbox_id, port))
        return local_pair()[0]


def pod(*names: str, status: dict[str, Any] | None = None, default: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": UID, "annotations": {DEFAULT_CONTAINER: default}},
        "spec": {"containers": [{"name": name, "image": "x"} for name in names or ("app",)]},
        "status": status or {"phase": "Running"},
    }


def container(attempt: int, state: State = State.RUNNING, name: str = "app") -> Container:
    return Container(f"{name}-{attempt}", "s-1", name, attempt, state, attempt, labels=LABELS | {CONTAINER_NAME: name})


@dataclass
class Room:
    directory: Path
    runtime: ListRuntime
    calls: PodCalls
    put: Callable[[dict[str, Any]], Any]

    def attempt(self, number: int, state: State = State.RUNNING) -> None:
        path = self.directory / f"{number}.log"
        path.write_text(f"2026-01-01T00:00:00Z stdout F attempt {number}\n")
        self.runtime.held.append(container(number, state))
        self.runtime.logs[f"app-{number}"] = str(path)

    async def logs(self, **wanted: Any) -> str:
        channels = await self.calls.open(Call("logs", "default", "web", **wanted))
        return (await all_of(channels)).decode()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    db = Database.open(tmp_path / "edge.db")
    store = await Store.open(db, kinds.registry(), SystemClock())
    runtime = ListRuntime()
    shaped = cast("ContainerRuntime", runtime)  # only what calls use
    calls = PodCalls("gw-1", store, lambda: shaped, disk=tmp_path, clock=SystemClock())

    async def put(obj: dict[str, Any]) -> None:
        await db.tx(lambda tx: store.put(tx, kinds.POD, obj))

    yield Room(tmp_path, runtime, calls, put)
    await db.close()


async def refusal(room: Room, call: Call) -> CallRefused:
    with pytest.raises(CallRefused) as caught:
        await room.calls.open(call)
    return caught.value


async def test_the_newest_attempt_speaks_and_the_one_before_it_as_previous(room: Room) -> None:
    await room.put(pod())
    for number in (0, 1, 2):
        room.attempt(number, State.RUNNING if number == 2 else State.EXITED)
    assert await room.logs() == "attempt 2\n"
    assert await room.logs(previous=True) == "attempt 1\n"


async def test_while_a_crashed_container_waits_its_last_words_are_shown_either_way(room: Room) -> None:
    last = {"terminated": {"containerID": "containerd://app-1"}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    await room.put(pod(status={"containerStatuses": [{"name": "app", "state": waiting, "lastState": last}]}))
    room.attempt(0, State.EXITED)
    room.attempt(1, State.EXITED)
    assert await room.logs() == await room.logs(previous=True) == "attempt 1\n"


async def test_a_previous_log_outlives_its_container(room: Room) -> None:
    await room.put(pod())
    room.attempt(0, State.EXITED)
    room.attempt(1)
    del room.runtime.held[0]
    assert await room.logs(previous=True) == "attempt 0\n"


async def test_following_ends_with_the_container(room: Room) -> None:
    await room.put(pod())
    room.attempt(0, State.EXITED)
    assert await room.logs(follow=True) == "attempt 0\n"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("", "ContainerCreating"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("ErrImagePull", "image can't be pulled"),
    ],
)
async def test_a_container_that_waits_is_refused_with_its_reason(room: Room, reason: str, words: str) -> None:
    state = {"waiting": {"reason": reason}} if reason else {}
    await room.put(pod(status={"containerStatuses": [{"name": "app", "state": state}]}))
    error = await refusal(room, Call("logs", "default", "web"))
    assert (error.status, str(error)) == (400, f'container "app" in pod "web" is waiting to start: {words}')


async def test_a_previous_container_that_never_was_is_refused(room: Room) -> None:
    await room.put(pod())
    room.attempt(0)
    error = await refusal(room, Call("logs", "default", "web", previous=True))
    assert str(error) == 'previous terminated container "app" in pod "web" not found'


@pytest.mark.parametrize(
    "wanted", [{"since_time": "monday"}, {"since_seconds": 0}, {"tail_lines": -1}, {"limit_bytes": 0}]
)
async def test_impossible_bounds_of_a_log_are_bad_requests(room: Room, wanted: dict[str, Any]) -> None:
    await room.put(pod())
    room.attempt(0)
    assert (await refusal(room, Call("logs", "default", "web", **wanted))).status == 400


async def test_unknown_pods_and_containers_are_not_found(room: Room) -> None:
    assert (await refusal(room, Call("logs", "default", "web"))).status == 404
    await room.put(pod())
    error = await refusal(room, Call("exec", "default", "web", "db", command=["sh"], stdout=True))
    assert (error.status, str(error)) == (404, 'container "db" not found in pod "web"')


async def test_a_pod_of_several_containers_must_be_asked_for_one_unless_it_names_a_default(room: Room) -> None:
    await room.put(pod("app", "side"))
    room.attempt(0)
    error = await refusal(room, Call("logs", "default", "web"))
    assert str(error) == "a container name must be specified for pod web, choose one of: [app side]"
    await room.put(pod("side", "app", default="app"))
    assert await room.logs() == "attempt 0\n"


async def test_exec_reaches_the_running_attempt_with_what_was_asked(room: Room) -> None:
    await room.put(pod())
    room.attempt(0, State.EXITED)
    room.attempt(1)
    await room.calls.open(Call("exec", "default", "web", command=["ls", "/"], stdout=True, stderr=True, tty=True))
    wanted = {"stdin": False, "stdout": True, "stderr": False, "tty": True}
    assert room.runtime.asked == [("app-1", ("ls", "/"), wanted)]


async def test_exec_into_what_does_not_run_is_refused(room: Room) -> None:
    await room.put(pod())
    room.attempt(0, State.EXITED)
    error = await refusal(room, Call("exec", "default", "web", command=["sh"], stdout=True))
    assert (error.status, str(error)) == (404, 'container not found ("app")')


async def test_a_port_is_forwarded_into_the_newest_ready_sandbox(room: Room) -> None:
    await room.put(pod())
    room.runtime.pods += [
        Sandbox(f"s-{n}", "default", "web", UID, n, state, n)
        for n, state in ((0, State.EXITED), (1, State.RUNNING), (2, State.EXITED))
    ]
    await room.calls.open(Call("portforward", "default", "web", port=80))
    assert room.runtime.asked == [("s-1", 80)]


async def test_a_port_of_a_pod_that_does_not_run_is_refused(room: Room) -> None:
    await room.put(pod(status={"phase": "Pending"}))
    error = await refusal(room, Call("portforward", "default", "web", port=80))
    assert str(error) == "unable to forward port because pod is not running. Current status=Pending"


async def test_a_ping_is_echoed_even_without_a_runtime(tmp_path: Path, room: Room) -> None:
    calls = PodCalls("gw-1", room.calls._store, lambda: None, disk=tmp_path, clock=SystemClock(), why=lambda: "off")
    channels = await calls.open(Call("ping"))
    await channels.write(STDIN, b"there?")
    assert await channels.read() == (STDOUT, b"there?")
    await channels.finish(STDIN)
    assert await channels.read() is None
    with pytest.raises(CallRefused, match="off"):
        await calls.open(Call("stats"))


async def test_the_summary_has_rates_from_two_samples_and_a_pod_s_sum(room: Room) -> None:
    room.attempt(0)
    room.runtime.held.append(container(0, name="side"))
    start = 1_700_000_000_000_000_000
    room.runtime.used = [Usage("app-0", start, 10**9, 100, 7), Usage("side-0", start, 0, 50)]
    await all_of(await room.calls.open(Call("stats")))
    later = start + 10**9
    room.runtime.used = [Usage("app-0", later, 10**9 + 250_000_000, 100, 7), Usage("side-0", later, 10**8, 50)]
    summary = json.loads(await all_of(await room.calls.open(Call("stats"))))
    (found,) = summary["pods"]
    assert found["podRef"] == {"name": "web", "namespace": "default", "uid": UID}
    assert found["cpu"]["usageNanoCores"] == 350_000_000
    assert found["memory"]["workingSetBytes"] == 150
    assert {c["name"]: c["cpu"]["usageNanoCores"] for c in found["containers"]} == {"app": 250_000_000, "side": 10**8}
    node = summary["node"]
    assert node["nodeName"] == "gw-1"
    assert node["cpu"]["usageNanoCores"] >= 0
    assert node["memory"]["workingSetBytes"] > 0
    assert node["fs"]["capacityBytes"] >= node["fs"]["usedBytes"] > 0


async def test_resource_metrics_are_text_that_prometheus_reads(room: Room) -> None:
    room.attempt(0)
    room.runtime.used = [Usage("app-0", 1_700_000_000_000_000_000, 1_500_000_000, 100)]
    text = (await all_of(await room.calls.open(Call("metrics")))).decode()
    labels = '{container="app",namespace="default",pod="web"}'
    assert f"container_cpu_usage_seconds_total{labels} 1.5 1700000000000\n" in text
    assert 'pod_memory_working_set_bytes{namespace="default",pod="web"} 100 ' in text
    assert "\nnode_memory_working_set_bytes " in text
    assert "resource_scrape_error 0 " in text

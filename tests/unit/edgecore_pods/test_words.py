"""Admission, eviction, events, timers and the one sentence for people, as tables."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edgecore.pods.admission import NodeRoomLeft, refusal, requested
from edgecore.pods.events import BURST, PodEvents
from edgecore.pods.eviction import MEMORY, Pressure, pick
from edgecore.pods.timers import Timers
from edgecore.pods.why import why
from proto.kit import canonical
from proto.kit.daemon import Supervisor
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock
from tests.kit.pods import container, pod, uid_of

Json = dict[str, Any]
ROOM = NodeRoomLeft("gw-1", {"site": "a", "cores": "4"}, {"cpu": 2000, "memory": 1 << 30, "pods": 3})


def asks(cpu: str = "", memory: str = "", name: str = "main", **fields: Any) -> Json:
    wanted = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    return container(name, resources={"requests": wanted}, **fields)


def needs(operator: str, *values: str, key: str = "site") -> Json:
    term = {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (pod("p", asks("1", "512Mi")), ""),
        (pod("p", asks("1500m")), "OutOfcpu"),
        (pod("p", asks(memory="600Mi")), "OutOfmemory"),
        (pod("p", asks("1"), asks("1", name="b")), "OutOfcpu"),
        (pod("p", asks("1"), initContainers=[asks("2")]), "OutOfcpu"),
        (pod("p", nodeSelector={"site": "b"}), "NodeAffinity"),
        (pod("p", nodeSelector={"site": "a"}), ""),
        (pod("p", affinity=needs("In", "a", "c")), ""),
        (pod("p", affinity=needs("NotIn", "a")), "NodeAffinity"),
        (pod("p", affinity=needs("Exists", key="none")), "NodeAffinity"),
        (pod("p", affinity=needs("Gt", "3", key="cores")), ""),
        (pod("p", affinity=needs("Lt", "4", key="cores")), "NodeAffinity"),
        (pod("p", os={"name": "windows"}), "PodOSNotSupported"),
        (pod("p", container(ports=[{"containerPort": 1, "hostPort": 8080}])), "NodePorts"),
        (pod("p", container(ports=[{"containerPort": 1, "hostPort": 8080, "protocol": "UDP"}])), ""),
        (pod("p", container(ports=[{"containerPort": 8080}]), hostNetwork=True), "NodePorts"),
        (pod("p", securityContext={"sysctls": [{"name": "vm.swappiness", "value": "1"}]}), "SysctlForbidden"),
        (pod("p", securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}), ""),
        (pod("p", container(securityContext={"appArmorProfile": {"type": "Localhost"}})), "AppArmor"),
        (pod("p", securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}), ""),
        (pod("p", securityContext={"supplementalGroupsPolicy": "Strict"}), "SupplementalGroupsPolicyNotSupported"),
    ],
)
def test_what_a_node_refuses_and_why(wanted: Json, reason: str) -> None:
    """POD-13."""
    there = pod("other", asks("1", "512Mi", ports=[{"containerPort": 80, "hostPort": 8080}]))

    refused = refusal(wanted, [there], ROOM)

    assert (refused.reason if refused else "") == reason


@pytest.mark.parametrize(
    ("wanted", "dry", "refused"),
    [
        (pod("p"), {"DiskPressure"}, True),
        (pod("p"), {"MemoryPressure"}, True),
        (pod("p", asks("1")), {"MemoryPressure"}, False),
        (pod("p", asks("1")), {"MemoryPressure", "DiskPressure"}, True),
        (pod("p", priority=2_000_000_000), {"DiskPressure"}, False),
        (pod("p"), set(), False),
    ],
)
def test_a_node_that_runs_dry_takes_no_more_but_critical_pods(wanted: Json, dry: set[str], refused: bool) -> None:
    """POD-13, POD-15."""
    found = refusal(wanted, [], replace(ROOM, pressures=frozenset(dry)))

    assert (found is not None and found.reason == "Evicted") is refused


def test_a_full_node_refuses_one_more() -> None:
    """POD-13."""
    refused = refusal(pod("p"), [pod(f"o{i}") for i in range(3)], ROOM)

    assert refused is not None
    assert (refused.reason, refused.message) == (
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
    )


def test_init_containers_count_as_the_largest_of_them_and_sidecars_beside_everything() -> None:
    side = asks("100m", name="side", restartPolicy="Always")

    assert requested(pod("p", asks("200m"), initContainers=[asks("500m"), side]), "cpu") == 500
    assert requested(pod("p", asks("200m"), initContainers=[side, asks("500m")]), "cpu") == 600
    assert requested(pod("p", asks("200m"), overhead={"cpu": "50m"}), "cpu") == 250


def test_who_is_evicted_first() -> None:
    """POD-15."""
    over, low = pod("over", asks(memory="10Mi"), priority=100), pod("low", asks(memory="90Mi"))
    static = pod("static")
    static["metadata"]["annotations"] = {"kubernetes.io/config.source": "file"}
    vital = pod("vital", priority=2_000_000_001)
    used = {uid_of("over"): 20 << 20, uid_of("low"): 80 << 20, uid_of("static"): 1 << 30, uid_of("vital"): 1 << 30}

    def first(*pods: Json) -> str | None:
        found = pick(pods, used, MEMORY)
        return found["metadata"]["name"] if found else None

    assert first(low, over, static, vital) == "over"
    assert first(low, static, vital) == "low"
    assert first(static, vital) is None


def test_pressure_counts_only_while_it_lasts() -> None:
    """POD-15."""
    pressure = Pressure(30.0)

    assert [
        pressure.due(MEMORY, free, 100, now) for free, now in ((50, 0), (50, 29), (200, 30), (50, 31), (50, 61))
    ] == [
        False,
        False,
        False,
        False,
        True,
    ]
    assert not pressure.due(MEMORY, 0, 0, 1000.0), "a threshold of 0 is none"


def events() -> tuple[PodEvents, ManualClock, Metrics]:
    clock, metrics = ManualClock(), Metrics()
    return PodEvents("gw-1", clock, metrics), clock, metrics


def test_a_repeated_event_is_counted_under_one_name_and_told_once_a_minute() -> None:
    """POD-14."""
    said, clock, _ = events()
    one = pod("web")
    said.say(one, "Warning", "BackOff", "again", container="main")
    (first,) = map(canonical.decode, said.due())
    for _ in range(5):
        said.say(one, "Warning", "BackOff", "again", container="main")
    early = said.due()
    clock.advance(60.0)
    (later,) = map(canonical.decode, said.due())

    assert (first["count"], early, later["count"]) == (1, [], 6)
    assert (first["name"], first["involvedObject"]) == (later["name"], later["involvedObject"])
    assert first["involvedObject"]["fieldPath"] == "spec.containers{main}"


def test_a_pod_that_floods_is_cut_and_others_are_heard() -> None:
    """POD-14."""
    said, clock, metrics = events()
    for number in range(100):
        said.say(pod("loud"), "Normal", "Noise", f"number {number}")
    said.say(pod("quiet"), "Normal", "Started", "Started container main")
    told = len(said.due())
    clock.advance(120.0)
    for number in range(100, 110):
        said.say(pod("loud"), "Normal", "Noise", f"number {number}")

    assert told == BURST + 1
    assert len(said.due()) == 2
    assert metrics.counter("skerry_edge_pod_events_dropped_total", "").value() == 75 + 8


async def test_timers_call_what_is_due_in_order_and_the_newest_setting_counts() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    called: list[str] = []
    supervisor = Supervisor(clock)
    supervisor.spawn(timers.run(), "timers")
    now_s = clock.now_s()
    timers.set("a", now_s + 2, lambda: called.append("a"))
    timers.set("b", now_s + 1, lambda: called.append("b"))
    timers.set("a", now_s + 5, lambda: called.append("late a"))
    timers.set("bad", now_s + 1, lambda: called.index("missing"))
    timers.set("c", now_s + 3, lambda: called.append("c"))
    timers.cancel("c")
    for _ in range(8):
        for _ in range(10):
            await asyncio.sleep(0)
        clock.advance(1.0)
    await supervisor.close()

    assert called == ["b", "late a"]


def told(*containers: Json, phase: str = "Running", **more: Any) -> Json:
    return {**pod("web"), "status": {"phase": phase, "containerStatuses": list(containers), **more}}


def one(name: str = "main", **state: Any) -> Json:
    return {
        "name": name,
        "restartCount": 4,
        "state": state,
        "lastState": {"terminated": {"exitCode": 7, "message": "a\nb"}},
    }


@pytest.mark.parametrize(
    ("obj", "sentence"),
    [
        (pod("web"), "edgecore has not looked at it yet"),
        (told(one(running={})), ""),
        (told(phase="Succeeded"), ""),
        (
            told(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            "The node was low on resource: memory.",
        ),
        (
            told(one(terminated={"exitCode": 3, "reason": "Error"}), phase="Failed"),
            "container main ended with exit code 3 (Error)",
        ),
        (
            told(one(waiting={"reason": "CrashLoopBackOff", "message": "back-off"})),
            "container main ends with exit code 7 again and again (4 restarts): b",
        ),
        (
            told(one(waiting={"reason": "ErrImagePull", "message": "not found"}), phase="Pending"),
            "container main waits (ErrImagePull): not found",
        ),
        (told(one(waiting={"reason": "ContainerCreating"}), phase="Pending"), "container main is being made"),
        (
            told(
                one(running={}),
                conditions=[{"type": "Ready", "status": "False", "message": "containers with unready status: [main]"}],
            ),
            "containers with unready status: [main]",
        ),
    ],
)
def test_one_sentence_says_why_a_pod_does_not_run(obj: Json, sentence: str) -> None:
    assert why(obj) == sentence

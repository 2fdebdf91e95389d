"""Pods on a real containerd: what runs, restarts, ends and is said of it. No cloud is there: nothing here may need one."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods.runtime import RuntimeRefused
from kubeapi.kinds import CONFIG_MAP
from tests.kit.containerd import Host
from tests.kit.pods import PodWorld, container, on_containerd, pod, uid_of, world
from tests.kit.wait import eventually

Json = dict[str, Any]


def restarts(node: PodWorld, name: str) -> list[tuple[str, int]]:
    return [(s["containerID"], s["restartCount"]) for s in node.status(name)["containerStatuses"]]


async def test_a_pod_runs_and_its_status_is_what_strict_clients_take(node: PodWorld) -> None:
    from kubernetes.client import ApiClient

    await node.put(pod("web", labels={"app": "web"}))
    await node.ready("web")

    class Answer:
        data = json.dumps({"metadata": {"name": "web"}, "spec": {"containers": []}, "status": node.status("web")})

    with ApiClient() as client:
        status = client.deserialize(Answer.data, "V1Pod", "application/json").status
    assert (status.phase, status.qos_class, status.host_ip) == ("Running", "BestEffort", "192.0.2.10")
    assert status.pod_ip.startswith("10.88.")
    assert {c.type: c.status for c in status.conditions} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    (one,) = status.container_statuses
    assert (one.ready, one.started, one.restart_count, one.image) == (True, True, 0, "localhost/skerry/busybox:1")
    assert one.container_id.startswith("containerd://")
    assert node.told("web") == {
        "uid": uid_of("web"),
        "version": node.told("web")["version"],
        "status": node.status("web"),
    }


async def test_init_containers_run_in_order_before_the_others_and_sidecars_stay(node: PodWorld) -> None:
    note = [{"name": "notes", "mountPath": "/notes"}]

    def says(word: str, then: str = "") -> tuple[str, ...]:
        return ("sh", "-c", f"echo {word} >> /notes/order; {then}")

    await node.put(
        pod(
            "ordered",
            container("main", says("main", "sleep 1000"), volumeMounts=note),
            initContainers=[
                container("first", says("first"), volumeMounts=note),
                container("side", says("side", "sleep 1000"), volumeMounts=note, restartPolicy="Always"),
                container("second", says("second"), volumeMounts=note),
            ],
            volumes=[{"name": "notes", "emptyDir": {}}],
        )
    )
    await node.ready("ordered")

    order = (node.directory.path / f"pods/{uid_of('ordered')}/volumes/notes/order").read_text().split()
    first, side, second = node.status("ordered")["initContainerStatuses"]
    assert order == ["first", "side", "second", "main"]
    assert [s["state"]["terminated"]["reason"] for s in (first, second)] == ["Completed", "Completed"]
    assert (side["started"], side["ready"], "running" in side["state"]) == (True, True, True)


async def test_a_crashing_container_waits_in_back_off_and_says_why(node: PodWorld) -> None:
    await node.put(
        pod(
            "crash",
            container(command=("sh", "-c", "echo no luck; exit 3"), terminationMessagePolicy="FallbackToLogsOnError"),
        )
    )
    await eventually(
        lambda: node.state("crash").get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
    )

    state = node.state("crash")
    assert state["state"]["waiting"]["message"] == (
        f"back-off 10s restarting failed container=main pod=crash_default({uid_of('crash')})"
    )
    ended = state["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "no luck")
    assert (state["restartCount"], state["ready"], node.status("crash")["phase"]) == (1, False, "Running")
    assert await eventually(lambda: node.events("BackOff"))


@pytest.mark.parametrize(
    ("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 4, "Failed"), ("OnFailure", 0, "Succeeded")]
)
async def test_a_pod_that_ends_keeps_its_end(node: PodWorld, policy: str, code: int, phase: str) -> None:
    await node.put(pod("ends", container(command=("sh", "-c", f"exit {code}")), restartPolicy=policy))
    status = await node.phase("ends", phase)

    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == code
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted" if phase == "Succeeded" else "PodFailed")


async def test_only_the_container_whose_image_changed_is_restarted(node: PodWorld) -> None:
    wanted = pod("two", container("a"), container("b"))
    await node.put(wanted)
    await node.ready("two")
    before = restarts(node, "two")

    changed = json.loads(json.dumps(wanted))
    changed["spec"]["containers"][0]["image"] = "localhost/skerry/busybox:1@sha256:" + "0" * 64
    changed["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    await node.put(changed)
    await eventually(lambda: node.state("two").get("state", {}).get("waiting"))
    reason = node.state("two")["state"]["waiting"]["reason"]
    await node.put(wanted)
    await node.ready("two")

    after = restarts(node, "two")
    assert reason == "ErrImageNeverPull"
    assert (after[1], after[0][1]) == (before[1], 1)


async def test_a_killed_edgecore_finds_its_pods_again_and_restarts_nothing(host: Host, node: PodWorld) -> None:
    await node.put(pod("a", container(readinessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1})))
    await node.put(pod("b", initContainers=[container("init", ("true",))]))
    await node.ready("a", "b")
    before = restarts(node, "a"), restarts(node, "b"), node.status("a"), node.status("b")

    await node.end()
    await node.open()
    node.begin(on_containerd(host))
    await eventually(lambda: node.room.controller is not None and not node.room.controller.away)
    await node.put(pod("c"))
    await node.ready("c")

    assert (restarts(node, "a"), restarts(node, "b"), node.status("a"), node.status("b")) == before


async def test_a_runtime_that_dies_leaves_the_pods_alone_and_the_node_says_so(host: Host, node: PodWorld) -> None:
    await node.put(pod("stays"))
    await node.ready("stays")
    before = restarts(node, "stays")

    await host.kill()
    try:
        await eventually(lambda: not node.room.workloads().ready, 25)
        said = node.room.workloads()
        await node.put(pod("waits"))
        await eventually(lambda: "container runtime is down" in json.dumps(node.status("waits")))
    finally:
        await host.start()
    await node.ready("stays", "waits")
    await eventually(lambda: node.room.workloads().ready, 25)

    assert (said.reason, "container runtime is down" in said.message) == ("ContainerRuntimeDown", True)
    assert restarts(node, "stays") == before


async def test_a_deleted_pod_runs_its_hook_gets_its_grace_and_is_told_gone_once(host: Host, node: PodWorld) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /notes/hook"]}}}
    trap = ("sh", "-c", "trap 'echo term >> /notes/hook; exit 0' TERM; while true; do sleep 0.1; done")
    mount = [{"name": "notes", "mountPath": "/notes"}]
    notes = node.directory.path / "notes"
    notes.mkdir()
    await node.put(
        pod(
            "leaves",
            container(command=trap, lifecycle=hook, volumeMounts=mount),
            terminationGracePeriodSeconds=10,
            volumes=[{"name": "notes", "hostPath": {"path": str(notes)}}],
        )
    )
    await node.ready("leaves")

    await node.delete("leaves")
    await eventually(lambda: node.messages("pod-gone"), 15)
    final = node.status("leaves")
    await node.remove("leaves")

    assert (notes / "hook").read_text().split() == ["bye", "term"]
    assert node.messages("pod-gone") == [{"namespace": "default", "name": "leaves", "uid": uid_of("leaves")}]
    assert (final["phase"], final["containerStatuses"][0]["state"]["terminated"]["exitCode"]) == ("Succeeded", 0)
    assert not (node.directory.path / f"pods/{uid_of('leaves')}").exists()
    assert uid_of("leaves") not in host.run(
        "sh", "-c", "ls /run/containerd/io.containerd.grpc.v1.cri/sandboxes || true"
    )


async def test_a_container_that_ignores_sigterm_is_killed_when_its_grace_is_over(node: PodWorld) -> None:
    await node.put(pod("stubborn", container(command=("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"))))
    await node.ready("stubborn")
    began_s = asyncio.get_running_loop().time()

    await node.delete("stubborn", grace_s=2)
    await eventually(lambda: node.messages("pod-gone"), 15)

    assert 1.9 <= asyncio.get_running_loop().time() - began_s <= 6.0
    assert node.state("stubborn")["state"]["terminated"]["exitCode"] == 137


async def test_a_pod_whose_object_just_vanishes_is_stopped_without_a_word(node: PodWorld) -> None:
    await node.put(pod("forced"))
    await node.ready("forced")

    await node.remove("forced")
    await eventually(lambda: node.room.controller is not None and not node.room.controller.entries)

    assert node.messages("pod-gone") == []
    assert node.room.runtime is not None
    assert [s.name for s in await node.room.runtime.sandboxes() if s.name == "forced"] == []


async def test_what_a_pod_waits_for_is_said_and_its_arrival_starts_it_at_once(node: PodWorld) -> None:
    source = [{"configMapRef": {"name": "late"}}]
    await node.put(pod("waits", container(envFrom=source)))
    await eventually(
        lambda: node.state("waits").get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError"
    )
    message = node.state("waits")["state"]["waiting"]["message"]

    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "late", "namespace": "default"},
        "data": {"A": "1"},
    }
    await node.put(config, CONFIG_MAP)
    await node.ready("waits", timeout_s=5)
    await node.remove("late", CONFIG_MAP)

    assert "late" in message


async def test_liveness_restarts_and_readiness_only_hides(node: PodWorld) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1}
    start = ("sh", "-c", "touch /tmp/ok; sleep 2; rm /tmp/ok; sleep 1000")
    await node.put(pod("ready", container(command=start, readinessProbe=probe)))
    await node.put(pod("alive", container(command=start, livenessProbe=probe), terminationGracePeriodSeconds=1))
    await node.ready("ready", "alive")

    await eventually(lambda: not node.is_ready("ready"), 10)
    await eventually(lambda: node.state("alive")["restartCount"] == 1, 15)

    assert node.state("ready")["restartCount"] == 0
    assert [e["message"] for e in node.events("Unhealthy") if "Liveness" in e["message"]]


async def test_memory_beyond_the_limit_is_shown_as_oomkilled(node: PodWorld) -> None:
    eats = container(
        command=("sh", "-c", "x=a; while true; do x=$x$x; done"),
        resources={"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}},
    )
    await node.put(pod("eats", eats, restartPolicy="Never"))
    await node.phase("eats", "Failed")

    ended = node.state("eats")["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert await eventually(lambda: node.events("OOMKilling"))


async def test_a_job_over_its_deadline_is_failed(node: PodWorld) -> None:
    await node.put(pod("late", restartPolicy="Never", activeDeadlineSeconds=2, terminationGracePeriodSeconds=1))
    status = await node.phase("late", "Failed")

    assert (status["reason"], status["message"]) == (
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    )


async def test_a_sandbox_that_dies_is_made_again_and_its_containers_follow(host: Host, node: PodWorld) -> None:
    await node.put(pod("falls"))
    await node.ready("falls")
    assert node.room.runtime is not None
    (before,) = [s for s in await node.room.runtime.sandboxes() if s.name == "falls"]

    with suppress(RuntimeRefused):  # the node, which sees it dying, may stop it at the same time
        await node.room.runtime.stop_sandbox(before.id)
    assert node.room.controller is not None
    node.room.controller.look_now()
    await eventually(lambda: node.state("falls").get("restartCount", 0) >= 1 and node.is_ready("falls"), 15)

    after = [s for s in await node.room.runtime.sandboxes() if s.name == "falls"]
    assert (max(s.attempt for s in after), node.state("falls")["restartCount"]) == (1, 1)
    assert node.status("falls")["podIP"]


async def test_host_network_shared_processes_and_an_ephemeral_container(node: PodWorld) -> None:
    wanted = pod("shared", container("main"), hostNetwork=True, shareProcessNamespace=True)
    await node.put(wanted)
    await node.ready("shared")
    before = restarts(node, "shared")

    debug = {**container("debug", ("sh", "-c", "ps | grep -c 'sleep 1000'; sleep 1000")), "targetContainerName": "main"}
    await node.put({**wanted, "spec": {**wanted["spec"], "ephemeralContainers": [debug]}})
    await eventually(
        lambda: "running" in (node.status("shared").get("ephemeralContainerStatuses") or [{}])[0].get("state", {})
    )

    assert node.status("shared")["podIP"] == "192.0.2.10"
    assert restarts(node, "shared") == before


async def test_a_long_log_is_rotated_and_only_so_many_are_kept(host: Host, tmp_path: Path) -> None:
    from edgecore.pods.rotation import rotate, rotated

    async with world(tmp_path / "edge") as node:
        node.begin(on_containerd(host))
        loud = "while true; do echo 0123456789012345678901234567890123456789; done"
        await node.put(pod("loud", container(command=("sh", "-c", loud)), terminationGracePeriodSeconds=0))
        await node.ready("loud")
        assert node.room.observer is not None
        (one,) = node.room.observer.of(uid_of("loud")).containers.values()
        path = Path(one.log_path)
        for _ in range(4):
            await eventually(lambda: path.exists() and path.stat().st_size > 4096)
            assert node.room.runtime is not None
            assert await rotate(node.room.runtime, one, 4096, 3)

        assert [file.name for file in rotated(path)] == ["0.log.00000003", "0.log.00000004"]
        await node.remove("loud")
        await eventually(lambda: node.room.controller is not None and not node.room.controller.entries, 30)


async def test_admission_refuses_as_kubelet_does(node: PodWorld) -> None:
    await node.put(pod("big", container(resources={"requests": {"cpu": "5"}})))
    status = await node.phase("big", "Failed")

    assert (status["reason"], status["message"]) == (
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000",
    )


async def test_all_pods_run_again_after_a_power_cut_without_any_network(tmp_path: Path) -> None:
    host = Host(tmp_path / "h", subnet="10.89.0.0/16")
    try:
        await host.open()
        await host.start()
        async with world(tmp_path / "edge") as node:
            names = [f"p{i}" for i in range(20)]
            node.begin(on_containerd(host))
            for name in names:
                await node.put(pod(name))
            await node.ready(*names, timeout_s=60)
            await node.end()
            await node.open()
            host.power_cut()
            await host.start()
            node.boot_id = "boot-2"

            def back() -> bool:
                return all(node.state(n)["restartCount"] == 1 and node.is_ready(n) for n in names)

            began_s = asyncio.get_running_loop().time()
            node.begin(on_containerd(host))
            await eventually(back, 60)

            assert asyncio.get_running_loop().time() - began_s < 8.0
    finally:
        await host.close()

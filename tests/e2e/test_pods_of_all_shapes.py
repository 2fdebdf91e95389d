"""Pods on a real containerd, beyond the plain ones: resized, refused, probed from the host, ended in every order."""

import asyncio
from typing import Any

import pytest

from tests.kit.containerd import Host
from tests.kit.pods import PodWorld, container, on_containerd, pod
from tests.kit.wait import eventually

Json = dict[str, Any]
LIMIT = ("sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null")


def sized(cpu: str, ram: str, *policy: str) -> Json:
    resources = {"requests": {"cpu": cpu, "memory": ram}, "limits": {"cpu": cpu, "memory": ram}}
    restarting = [{"resourceName": name, "restartPolicy": "RestartContainer"} for name in policy]
    return container(resources=resources, resizePolicy=restarting)


async def limit(node: PodWorld, name: str) -> int:
    """The memory limit that the kernel keeps for the first container."""
    container_id = node.state(name)["containerID"].partition("://")[2]
    assert node.room.runtime is not None
    return int((await node.room.runtime.exec_sync(container_id, LIMIT, 5)).stdout)


def resizing(node: PodWorld, name: str) -> list[tuple[str, str]]:
    found = node.status(name)["conditions"]
    return [(c["type"], c.get("reason", "")) for c in found if "Resize" in c["type"]]


async def test_a_pod_is_resized_while_it_runs_and_a_new_process_knows_it(host: Host, node: PodWorld) -> None:
    """POD-17."""
    await node.put(pod("grows", sized("100m", "32Mi")))
    await node.ready("grows")
    before = node.state("grows")["containerID"]
    assert (await limit(node, "grows"), node.state("grows")["resources"]["limits"]["memory"]) == (32 << 20, "32Mi")

    await node.put(pod("grows", sized("200m", "64Mi")))
    await eventually(lambda: node.state("grows")["resources"]["limits"] == {"cpu": "200m", "memory": "64Mi"})
    assert await limit(node, "grows") == 64 << 20
    assert node.state("grows")["allocatedResources"] == {"cpu": "200m", "memory": "64Mi"}

    await node.end()
    await node.open()
    await node.put(pod("grows", sized("300m", "96Mi")))  # it arrives while nobody looks
    node.begin(on_containerd(host))
    await eventually(lambda: node.state("grows")["resources"]["limits"]["memory"] == "96Mi")

    assert await limit(node, "grows") == 96 << 20
    assert (node.state("grows")["containerID"], node.state("grows")["restartCount"]) == (before, 0)
    assert resizing(node, "grows") == []


async def test_a_resize_that_wants_a_restart_or_has_no_room(node: PodWorld) -> None:
    """POD-17."""
    await node.put(pod("again", sized("100m", "32Mi", "memory")))
    await node.ready("again")

    await node.put(pod("again", sized("100m", "48Mi", "memory")))
    await eventually(lambda: node.state("again")["restartCount"] == 1 and node.is_ready("again"))
    assert (await limit(node, "again"), resizing(node, "again")) == (48 << 20, [])

    await node.put(pod("again", sized("64", "48Mi", "memory")))
    await eventually(lambda: resizing(node, "again") == [("PodResizePending", "Infeasible")])
    assert node.state("again")["resources"]["limits"]["cpu"] == "100m"
    assert [e["message"] for e in node.events("ResizeInfeasible")] == [
        "Node didn't have enough capacity: cpu, requested: 64000, capacity: 4000"
    ]


@pytest.mark.parametrize(
    ("wanted", "reason", "said"),
    [
        ({"sysctls": [{"name": "vm.swappiness", "value": "1"}]}, "SysctlForbidden", "vm.swappiness"),
        ({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}, "AppArmor", "AppArmor"),
    ],
)
async def test_what_can_never_run_here_is_failed_with_its_reason(
    node: PodWorld, wanted: Json, reason: str, said: str
) -> None:
    """POD-13."""
    await node.put(pod("never", securityContext=wanted))
    status = await node.phase("never", "Failed", 5)

    assert (status["reason"], said in status["message"]) == (reason, True)
    assert await eventually(lambda: node.events(reason))
    assert node.room.runtime is not None
    assert [s for s in await node.room.runtime.sandboxes() if s.name == "never"] == []


async def test_a_host_port_that_is_taken_is_said_with_the_port(node: PodWorld) -> None:
    """POD-13."""
    taking = [{"containerPort": 80, "hostPort": 18080}]
    await node.put(pod("first", container(ports=taking)))
    await node.ready("first")

    await node.put(pod("second", container(ports=taking)))
    status = await node.phase("second", "Failed", 5)

    assert status["reason"] == "NodePorts"
    assert status["message"].endswith("didn't have free ports: TCP 18080 is taken")


async def test_a_container_leaves_its_last_words_where_the_pod_says(node: PodWorld) -> None:
    """POD-10."""
    says = container(command=("sh", "-c", "echo valve stuck > /tmp/end; exit 3"), terminationMessagePath="/tmp/end")
    await node.put(pod("speaks", says, restartPolicy="Never"))
    await node.phase("speaks", "Failed")

    ended = node.state("speaks")["state"]["terminated"]
    assert (ended["message"], ended["exitCode"]) == ("valve stuck\n", 3)


async def test_a_pre_stop_hook_counts_into_the_grace_of_a_container_that_ignores_sigterm(node: PodWorld) -> None:
    """POD-7."""
    stubborn = ("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done")
    hook = {"preStop": {"exec": {"command": ["sleep", "60"]}}}
    await node.put(pod("stays", container(command=stubborn, lifecycle=hook), terminationGracePeriodSeconds=3))
    await node.ready("stays")
    began_s = asyncio.get_running_loop().time()

    await node.delete("stays")
    await eventually(lambda: node.messages("pod-gone"), 15)

    assert 3.0 <= asyncio.get_running_loop().time() - began_s <= 9.0, (
        "two seconds are left after the hook, as with kubelet"
    )
    assert node.state("stays")["state"]["terminated"]["exitCode"] == 137
    assert await eventually(lambda: node.events("FailedPreStopHook"))


async def test_sidecars_outlive_the_main_container_and_end_last_one_first(node: PodWorld) -> None:
    """POD-7."""
    notes = node.directory.path / "notes"
    notes.mkdir()
    mount = [{"name": "notes", "mountPath": "/notes"}]

    def ending(name: str, **fields: Any) -> Json:
        trap = f"trap 'echo {name} >> /notes/order; exit 0' TERM; while true; do sleep 0.1; done"
        return container(name, ("sh", "-c", trap), volumeMounts=mount, **fields)

    await node.put(
        pod(
            "order",
            ending("main"),
            initContainers=[ending(name, restartPolicy="Always") for name in ("early", "late")],
            volumes=[{"name": "notes", "hostPath": {"path": str(notes)}}],
            terminationGracePeriodSeconds=10,
        )
    )
    await node.ready("order")
    await node.delete("order")
    await eventually(lambda: node.messages("pod-gone"), 20)

    assert (notes / "order").read_text().split() == ["main", "late", "early"]


async def test_a_person_s_restart_does_not_wait_for_the_back_off_of_crashes(node: PodWorld) -> None:
    """POD-6."""
    flag = node.directory.path / "flag"
    flag.mkdir()
    start = ("sh", "-c", "test -e /flag/well || exit 1; exec sleep 1000")
    mount = [{"name": "flag", "mountPath": "/flag"}]
    volumes = [{"name": "flag", "hostPath": {"path": str(flag)}}]
    wanted = pod("heals", container(command=start, volumeMounts=mount), volumes=volumes)
    await node.put(wanted)
    await eventually(lambda: "CrashLoopBackOff" in str(node.state("heals").get("state")))
    waiting = node.state("heals")["restartCount"]
    (flag / "well").touch()

    assert node.room.restart("default", "heals", "") == ""
    await node.ready("heals", timeout_s=5)
    assert node.state("heals")["restartCount"] == waiting + 1

"""A power cut, then a boot with no network: the twenty pods of the last known state run again, soon, and no cloud was asked."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import State
from kubeapi.kinds import POD
from proto.kit.clock import SystemClock
from tests.bench.bare_cri import BareCri
from tests.kit import fleet
from tests.kit.containerd import Host
from tests.kit.gateway import gateway
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

NODE, PODS = "gw-1", 20
GOAL_S = 8.0  # of the daemon's start
PARALLEL = 8
LOADED_RATIO = 2.0  # of the bare calls' time, where this machine is too busy for the goal


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "h", NODE) as edge:
            for at in range(PODS):
                one = fleet.pod(f"pod-{at}")
                one["metadata"]["namespace"], one["spec"]["nodeName"] = "default", NODE
                await platform.kube.apply(one)
            await eventually(lambda: ready_pods(edge, 0) == PODS, 60)
            yield edge


def ready_pods(edge: Edge, restarts: int) -> int:
    """How many pods the node itself calls Ready with so many restarts."""
    found = [pod.get("status") or {} for pod in edge.objects(POD)]
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
        and [s["restartCount"] for s in status["containerStatuses"]] == [restarts]
        for status in found
    )


async def running(host: Host) -> int:
    runtime = CriRuntime(host.socket, SystemClock())
    try:
        return sum(one.state == State.RUNNING for one in await runtime.containers())
    finally:
        await runtime.close()


@pytest.mark.timeout(180)
async def test_twenty_pods_run_again_after_a_power_cut_without_a_network(edge: Edge) -> None:
    host = edge.host
    assert host is not None
    calls = BareCri(host.socket)
    calls.learn(edge.objects(POD)[0]["metadata"]["uid"])
    edge.cut()
    host.power_cut()
    await edge.kill()
    await host.start()
    assert await running(host) == 0

    began_s = time.monotonic()
    await edge.start()
    await eventually(lambda: all_run(host), 60)
    took_s = time.monotonic() - began_s
    await eventually(lambda: ready_pods(edge, 1) == PODS, 30)
    connected = (await edge.status())["link"]["connected"]
    bare_s = await asyncio.to_thread(bare, calls)

    print(f"{PODS} pods run {took_s:.2f} s after the daemon's start; the bare CRI calls take {bare_s:.2f} s")
    assert not connected
    assert took_s <= max(GOAL_S, LOADED_RATIO * bare_s), (took_s, bare_s)


async def all_run(host: Host) -> bool:
    return await running(host) == PODS


def bare(calls: BareCri) -> float:
    """The same number of pods by bare calls, in seconds."""
    try:
        return calls.start_many(PODS, PARALLEL)
    finally:
        calls.remove_all()
        calls.close()

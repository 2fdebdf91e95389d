"""What the cloud says of a pod that runs here: finished, or ready by its gates (POD-16)."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kubeapi.kinds import POD
from proto.kit.database import Tx
from tests.kit.clock import ManualClock
from tests.kit.memory_runtime import MemoryRuntime
from tests.kit.pods import container, pod, world
from tests.kit.wait import eventually
from tests.unit.edgecore_pods.test_controller import Node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    clock = ManualClock()
    async with world(tmp_path / "edge", clock) as one:
        made = Node(one, clock, MemoryRuntime(clock))
        made.begin()
        await made.looked()
        yield made


async def hear(node: Node, name: str, **status: Any) -> None:
    """Put what the link brings into the store (edgecore.sync joins it with what was written here)."""

    def write(tx: Tx) -> None:
        held = node.world.store.peek(POD, "default", name)
        assert held is not None
        node.world.store.put(tx, POD, {**held.object, "status": {**(held.object.get("status") or {}), **status}})

    await node.world.db.tx(write)


async def test_a_pod_that_the_cloud_calls_failed_stops_and_stays_failed_with_the_clouds_words(node: Node) -> None:
    await node.world.put(pod("web", container("a"), container("b")))
    await node.world.ready("web")
    version = node.world.told("web")["version"]

    await hear(node, "web", phase="Failed", reason="NodeLost", message="the node was away too long")
    await node.pass_time(5)
    await eventually(lambda: node.running() == {})
    await eventually(lambda: all("terminated" in one["state"] for one in node.world.status("web")["containerStatuses"]))

    status = node.world.status("web")
    assert (status["phase"], status["reason"]) == ("Failed", "NodeLost")
    assert next(c for c in status["conditions"] if c["type"] == "ContainersReady")["reason"] == "PodFailed"
    assert node.world.told("web")["version"] > version
    await node.again()
    await node.pass_time(30)
    assert node.running() == {}


async def test_a_pod_is_ready_when_its_gate_opens_in_the_cloud_and_not_before(node: Node) -> None:
    await node.world.put(pod("web", container("a"), readinessGates=[{"conditionType": "lb"}]))
    await eventually(lambda: node.running() == {"a": 0})
    await eventually(lambda: condition(node).get("reason") == "ReadinessGatesNotReady")

    for word in ("True", "False"):
        gate = {"type": "lb", "status": word, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        others = [c for c in node.world.status("web")["conditions"] if c["type"] != "lb"]
        await hear(node, "web", conditions=[*others, gate])
        await eventually(partial(is_ready, node, word))
        assert gate in node.world.status("web")["conditions"]
    assert node.running() == {"a": 0}


def condition(node: Node) -> dict[str, Any]:
    found = node.world.status("web").get("conditions") or ()
    return next((c for c in found if c["type"] == "Ready"), {})


def is_ready(node: Node, word: str) -> bool:
    return condition(node).get("status") == word

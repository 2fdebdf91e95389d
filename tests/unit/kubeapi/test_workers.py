"""What every controller stands on: keys that are tried again, events that are counted, and two control planes at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubeapi import kinds
from kubeapi.controllers.builtin import BuiltinControllers
from kubeapi.controllers.recorder import BURST, Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.errors import unavailable
from tests.kit.clock import ManualClock
from tests.unit.kubeapi.api import CM, Api, config_map
from tests.unit.kubeapi.workload_kit import Cluster, workload


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    yield Cluster(api)
    await api.close()


async def test_a_key_that_fails_holds_up_no_other_and_comes_back() -> None:  # WORK-8
    clock, seen = ManualClock(), []

    async def make_right(key: str) -> None:
        seen.append(key)
        if key == "bad" and seen.count("bad") < 3:
            raise unavailable("not yet")

    worker = Worker("test", make_right, clock)
    worker.add("bad")
    worker.add("good")
    await worker.drain()
    assert seen == ["bad", "good"]
    for _ in range(2):
        clock.advance(60)
        assert worker.dirty
        await worker.drain()
    clock.advance(600)
    assert not worker.dirty
    assert seen == ["bad", "good", "bad", "bad"]


async def test_a_delayed_key_comes_once_at_its_earliest_time() -> None:
    clock, seen = ManualClock(), []

    async def make_right(key: str) -> None:
        seen.append((key, clock.now_s()))

    worker = Worker("test", make_right, clock)
    began = clock.now_s()
    for delay_s in (30.0, 10.0, 20.0):
        worker.add_after("k", delay_s)
    for _ in range(6):
        clock.advance(10)
        await worker.drain()
    assert seen == [("k", began + 10)]


async def test_the_same_event_is_counted_and_one_object_cannot_flood_the_log(cluster: Cluster) -> None:
    owner = await cluster.api.create(CM, config_map("o"))
    recorder = Recorder(cluster.objects, "test")
    for _ in range(3):
        recorder.warning(CM, owner, "Same", "again and again")
    for i in range(2 * BURST):
        recorder.normal(CM, owner, "Other", f"message {i}")
    await cluster.api.db.tx(lambda _: None)
    found = cluster.all(kinds.EVENT)
    (same,) = [e for e in found if e["reason"] == "Same"]
    assert (same["count"], same["source"]["component"]) == (3, "test")
    assert len(found) == BURST - 2
    assert recorder.suppressed == BURST + 3


async def test_two_control_planes_on_one_store_come_to_the_same_end(cluster: Cluster) -> None:  # WORK-8
    other = BuiltinControllers(cluster.objects)
    await cluster.start()
    await other.start()
    await cluster.add_nodes("n1", "n2")
    await cluster.api.create(kinds.DEPLOYMENT, workload("web", replicas=5))
    await cluster.api.create(kinds.DAEMON_SET, workload("agent"))
    for _ in range(20):
        await asyncio.gather(other.settle(), cluster.api.controllers.settle())
        await cluster.run_pods()
        await cluster.stop_deleted()
        await cluster.after(1)
    assert len(cluster.pods(app="web")) == 5
    assert sorted(cluster.nodes_of(*cluster.pods(app="agent"))) == ["n1", "n2"]
    assert len(cluster.all(kinds.REPLICA_SET)) == 1
    assert other.failures == 0


async def test_without_workload_controllers_nothing_makes_or_places_pods(cluster: Cluster) -> None:
    off = BuiltinControllers(cluster.objects, run_workloads=False)
    await off.start()
    await cluster.api.create(kinds.NODE, {"metadata": {"name": "n"}})
    await cluster.api.create(kinds.DEPLOYMENT, workload("web", replicas=5))
    await off.settle()
    assert (cluster.pods(), cluster.all(kinds.REPLICA_SET)) == ([], [])
    assert "taints" not in cluster.get(kinds.NODE, "n")["spec"]
    assert cluster.get(kinds.SERVICE_ACCOUNT, "default")["metadata"]["name"] == "default"

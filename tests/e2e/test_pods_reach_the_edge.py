"""A pod bound to an edge is in that edge's store with all that it reads; what is said of it there is in the API.

Downwards the edge is a real daemon. Upwards a small writer speaks over the real link in its place.
"""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgecore import kinds, sync
from edgecore.data_dir import DataDir
from edgecore.sync import Replica
from kubeapi.kinds import CONFIG_MAP, NAMESPACE, POD, SECRET
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.kit.tls import client_contexts
from proto.link import edge as edge_link
from proto.link.client import PahoBroker
from proto.link.edge import EdgeLink
from tests.kit.kube import KubeError
from tests.kit.link import FAST
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

PODS = "/api/v1/namespaces/default/pods"
WEB = "core/pods/default/web"
WORDS = "correct-horse-battery-staple"


def config(value: str) -> dict[str, Any]:
    metadata = {"name": "settings", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"colour": value}}


def secret() -> dict[str, Any]:
    metadata = {"name": "words", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"words": WORDS}}


def pod(name: str = "web", node: str = "gw-1") -> dict[str, Any]:
    sources = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "words"}}]
    container = {"name": "main", "image": "registry.example/web:1", "envFrom": sources}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 600}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with Platform(tmp_path) as made:
        await made.start_cloud()
        yield made


def names(edge: Edge, kind: Any) -> set[str]:
    return {each["metadata"]["name"] for each in edge.objects(kind)}


def colour(edge: Edge) -> str:
    found = [each for each in edge.objects(CONFIG_MAP) if each["metadata"]["name"] == "settings"]
    return str(found[0]["data"]["colour"]) if found else ""


async def test_a_pod_arrives_with_what_it_reads_and_nobody_elses_secret(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    other = {**secret(), "metadata": {"name": "theirs", "namespace": "default"}}
    await platform.kube.apply(config("red"), secret(), other, pod())

    await eventually(lambda: names(edge, POD) == {"web"} and names(edge, SECRET) == {"words"} and colour(edge) == "red")

    assert names(edge, NAMESPACE) == {"default"}
    assert (DataDir(edge.data_dir).database.stat().st_mode & 0o777) == 0o600
    assert WORDS not in edge.process.log.read_text()


async def test_cuts_kills_and_a_wiped_disk_end_with_what_the_cloud_says(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(config("red"), secret(), pod())
    await eventually(lambda: colour(edge) == "red")

    edge.cut()
    await platform.kube.apply(config("green"), pod("second"))
    await platform.kube.delete(f"{PODS}/web?gracePeriodSeconds=0")
    edge.mend()
    await eventually(lambda: colour(edge) == "green" and names(edge, POD) == {"second"})

    await edge.kill()
    await platform.kube.apply(config("blue"))
    await edge.start()
    await eventually(lambda: colour(edge) == "blue")

    await platform.kill_cloud()
    await platform.start_cloud()
    await platform.kube.apply(config("white"))
    await eventually(lambda: colour(edge) == "white", 30)

    await edge.stop()
    shutil.rmtree(edge.data_dir)
    await edge.prepare()
    await edge.start()
    await eventually(lambda: colour(edge) == "white" and names(edge, POD) == {"second"}, 30)


class Writer:
    """An edge's link and store over the identity of a joined node, and nothing that runs pods."""

    def __init__(self, db: Database, store: Store, replica: Replica, link: EdgeLink) -> None:
        self.db, self.store, self.replica, self.link = db, store, replica, link
        self.statuses: dict[str, bytes] = {}
        self._version = 0

    def pod(self, name: str = "web") -> dict[str, Any]:
        found = self.store.get(POD, "default", name)
        return found if found is not None else {}

    async def say(self, name: str = "web", **status: Any) -> None:
        """Store a status of the pod and let it go up, as the pods' room does."""
        self._version += 1
        obj = self.pod(name)
        key = f"core/pods/default/{name}"
        body = canonical.encode({"uid": obj["metadata"]["uid"], "version": self._version, "status": status})

        def write(tx: Any) -> None:
            self.store.put(tx, POD, {**obj, "status": status})
            self.link.outbox.put_state(tx, key, body)

        await self.db.tx(write)
        self.statuses[key] = body

    async def tell(self, kind: str, **body: Any) -> None:
        await self.db.tx(lambda tx: self.link.outbox.put_message(tx, kind, json.dumps(body).encode()))


@asynccontextmanager
async def writer(edge: Edge) -> AsyncIterator[Writer]:
    await edge.prepare()
    directory, clock, metrics = DataDir(edge.data_dir), SystemClock(), Metrics()
    db = Database.open(directory.database, (edge_link.SCHEMA, sync.SCHEMA))
    store = await Store.open(db, kinds.registry(), clock)
    made: list[Writer] = []
    replica = Replica(
        edge.name,
        db,
        store,
        store.registry,
        statuses_of=lambda: made[0].statuses,
        node_status=lambda: None,
        metrics=metrics,
    )
    contexts = client_contexts(directory.certificate, directory.key, directory.ca, "cloudcore.skerry")
    url = f"mqtts://127.0.0.1:{edge.relay.port}"
    broker = PahoBroker(url, clock=clock, tls=contexts, server_hostname="cloudcore.skerry")
    link = EdgeLink(edge.name, broker, db, replica, FAST, clock=clock, rng=Rng(3), metrics=metrics)
    made.append(Writer(db, store, replica, link))
    supervisor = Supervisor(clock)
    supervisor.spawn(link.run(), "link")
    try:
        yield made[0]
    finally:
        await supervisor.close()
        await db.close()


@pytest.fixture
async def gateway(platform: Platform) -> AsyncIterator[Writer]:
    edge = await platform.add_edge("gw-1", start=False)
    async with writer(edge) as made:
        await eventually(lambda: made.link.status().connected)
        yield made


async def phase(platform: Platform, name: str = "web") -> str:
    found = await platform.kube.find(f"{PODS}/{name}")
    return str((found or {}).get("status", {}).get("phase", "gone" if found is None else ""))


async def shows(platform: Platform, wanted: str, timeout_s: float = 15.0) -> None:
    async def shown() -> bool:
        return await phase(platform) == wanted

    await eventually(shown, timeout_s)


async def test_what_the_node_says_of_a_pod_survives_its_next_version(platform: Platform, gateway: Writer) -> None:
    await platform.kube.apply(pod())
    await eventually(gateway.pod)

    await gateway.say(phase="Running")
    await shows(platform, "Running")
    await platform.kube.patch(f"{PODS}/web", {"metadata": {"labels": {"tier": "front"}}})
    await eventually(lambda: gateway.pod()["metadata"].get("labels"))

    assert gateway.pod()["status"] == {"phase": "Running"}


async def test_a_status_said_while_the_cloud_is_away_arrives_when_it_is_back(
    platform: Platform, gateway: Writer
) -> None:
    await platform.kube.apply(pod())
    await eventually(gateway.pod)

    await platform.kill_cloud()
    await gateway.say(phase="Running", message="first")
    await gateway.say(phase="Running", message="second")
    await platform.start_cloud()

    async def second() -> bool:
        found = await platform.kube.get(f"{PODS}/web")
        return bool((found.get("status") or {}).get("message") == "second")

    await eventually(second, 30)


async def test_a_deleted_pod_stays_until_its_node_says_that_it_is_gone(platform: Platform, gateway: Writer) -> None:
    await platform.kube.apply(pod())
    await eventually(gateway.pod)
    uid = gateway.pod()["metadata"]["uid"]

    await platform.kube.delete(f"{PODS}/web")
    await eventually(lambda: gateway.pod()["metadata"].get("deletionTimestamp"))
    assert gateway.pod()["metadata"]["deletionGracePeriodSeconds"] == 600
    assert await phase(platform) != "gone"
    await gateway.say(phase="Succeeded")
    await gateway.tell("pod-gone", namespace="default", name="web", uid=uid)

    await shows(platform, "gone")
    await eventually(lambda: not gateway.pod())


async def test_a_finished_pod_is_not_new_to_a_node_whose_disk_was_wiped(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1", start=False)
    async with writer(edge) as first:
        await platform.kube.apply(pod())
        await eventually(first.pod)
        await first.say(phase="Succeeded")
        await shows(platform, "Succeeded")
    shutil.rmtree(edge.data_dir)

    async with writer(edge) as second:
        await eventually(second.pod)
        assert second.pod()["status"]["phase"] == "Succeeded"


async def test_a_static_pod_is_shown_in_the_api_and_its_mirror_leaves_it_alone(
    platform: Platform, gateway: Writer
) -> None:
    annotations = {"kubernetes.io/config.mirror": "h1", "kubernetes.io/config.source": "file"}
    container = {"name": "main", "image": "registry.example/web:1"}
    static = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "h1", "annotations": annotations},
        "spec": {"nodeName": "gw-1", "containers": [container]},
    }
    await gateway.db.tx(lambda tx: gateway.store.put(tx, POD, static))

    await gateway.tell("pod-mirror", pod=static)
    await eventually(lambda: WEB in gateway.replica.mirrors(), 15)

    mirror = await platform.kube.get(f"{PODS}/web")
    assert gateway.replica.mirrors()[WEB] == mirror["metadata"]["uid"]
    assert gateway.pod()["metadata"]["uid"] == "h1"
    await platform.kube.delete(f"{PODS}/web?gracePeriodSeconds=0")
    await eventually(lambda: WEB not in gateway.replica.mirrors(), 15)
    assert gateway.pod()["metadata"]["uid"] == "h1"


async def test_a_mirror_that_reads_a_secret_is_not_made(platform: Platform, gateway: Writer) -> None:  # HUB-10
    stolen = pod()
    stolen["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "h1"}

    await gateway.tell("pod-mirror", pod=stolen)
    await gateway.tell("event", involvedObject={"kind": "Node", "name": "gw-1"}, reason="After", message="")

    async def after() -> bool:
        return any(event["reason"] == "After" for event in await platform.kube.list("/api/v1/events"))

    await eventually(after, 15)
    with pytest.raises(KubeError):
        await platform.kube.get(f"{PODS}/web")

"""The hub's door to a node, over the whole link and an edge's real replica: messages once each, objects on demand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloudcore.hub.hub import LinkNotUp
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.resources import CONFIG_MAP, POD
from cloudcore.link_log import SqlLog
from edgecore import kinds, sync
from edgecore.sync import Replica
from kubeapi import kinds as kube
from kubeapi.store import Store
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database, Tx
from proto.kit.metrics import Metrics
from proto.link import edge as edge_link
from proto.link.cloud import CloudLink
from proto.link.edge import EdgeLink
from proto.link.memory import MemoryBroker
from proto.link.replica import MessageRow
from tests.kit.cloud import Cloud, running
from tests.kit.link import FAST
from tests.kit.wait import eventually


@dataclass
class Pair:
    """A hub and one edge."""

    cloud: Cloud
    broker: MemoryBroker
    db: Database
    store: Store
    link: EdgeLink
    got: list[bytes] = field(default_factory=list)

    def colour(self) -> str:
        found = self.store.get(kube.CONFIG_MAP, "default", "settings")
        return str(found["data"]["colour"]) if found is not None else ""


@asynccontextmanager
async def paired(path: Path) -> AsyncIterator[Pair]:
    async with running(path) as cloud:
        clock, broker, metrics = SystemClock(), MemoryBroker(), Metrics()
        supervisor = Supervisor(clock)
        db = Database.open(path / "edge.db", (edge_link.SCHEMA, sync.SCHEMA))
        store = await Store.open(db, kinds.registry(), clock)
        got: list[bytes] = []

        def note(tx: Tx, row: MessageRow) -> None:
            tx.after_commit(lambda: got.append(row.body))

        replica = Replica(
            "gw-1",
            db,
            store,
            store.registry,
            statuses_of=dict,
            node_status=lambda: None,
            metrics=metrics,
            messages={"note": note},
        )
        edge = EdgeLink("gw-1", broker, db, replica, FAST, clock=clock, rng=Rng(3), metrics=metrics)
        hub = cloud.hub
        hub.link = CloudLink(
            broker, SqlLog(cloud.sql), hub.replica, FAST, clock=clock, rng=Rng(4), metrics=cloud.metrics
        )
        supervisor.spawn(hub.link.run(), "cloud link")
        supervisor.spawn(edge.run(), "edge link")
        try:
            await eventually(lambda: edge.status().connected)
            yield Pair(cloud, broker, db, store, edge, got)
        finally:
            await supervisor.close()
            await db.close()


async def test_a_message_from_the_hub_arrives_once_whatever_the_connection_does(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        for number in range(30):
            await pair.cloud.hub.send("gw-1", "note", b"%d" % number)
            if number % 10 == 5:
                pair.broker.cut()

        await eventually(lambda: len(pair.got) >= 30, 20)
        assert pair.got == [b"%d" % number for number in range(30)]


async def test_a_message_before_there_is_a_link_is_to_be_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        with pytest.raises(LinkNotUp):
            await cloud.hub.send("gw-1", "note", b"")


async def test_an_object_is_sent_again_when_the_hub_wants_it(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        client = pair.cloud.client
        metadata = {"name": "settings"}
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"colour": "red"}}
        await client.create(CONFIG_MAP, "default", made)
        source = {"configMapRef": {"name": "settings"}}
        container = {"name": "main", "image": "registry.example/web:1", "envFrom": [source]}
        spec = {"nodeName": "gw-1", "containers": [container]}
        await client.create(
            POD, "default", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
        )
        await eventually(lambda: pair.colour() == "red")

        await pair.db.tx(lambda tx: pair.store.put(tx, kube.CONFIG_MAP, _painted(pair, "blue")))
        assert pair.colour() == "blue"
        pair.cloud.hub.send_again("gw-1", CONFIG_MAP.key("default", "settings"))

        await eventually(lambda: pair.colour() == "red")
        await client.patch(CONFIG_MAP, "default", "settings", {"data": {"colour": "green"}}, content_type=MERGE_PATCH)
        await eventually(lambda: pair.colour() == "green")


def _painted(pair: Pair, colour: str) -> dict[str, object]:
    found = pair.store.get(kube.CONFIG_MAP, "default", "settings")
    assert found is not None
    return {**found, "data": {"colour": colour}}

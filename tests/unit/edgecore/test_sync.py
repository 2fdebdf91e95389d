from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgecore import kinds, sync
from edgecore.sync import Replica
from kubeapi.store import Event, Store
from proto.kit import canonical
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange
from tests.kit.clock import ManualClock

KILN = "devices.kubeedge.io/devices/default/kiln"
NODE = "core/nodes/-/gw-1"


class Edge:
    def __init__(self, db: Database, store: Store) -> None:
        self.db, self.store, self.metrics = db, store, Metrics()
        self.replica = self.restarted()
        self.seen: list[str] = []
        store.listen(kinds.DEVICE, self.note)

    def restarted(self) -> Replica:
        return Replica(
            "gw-1",
            self.db,
            self.store,
            self.store.registry,
            statuses_of=lambda: {"k": b"v"},
            node_status=lambda: {"phase": "local"},
            metrics=self.metrics,
        )

    def note(self, event: Event) -> None:
        self.seen.append(f"{event.type} {event.object['metadata'].get('uid')}")

    async def apply(self, *changes: StateChange) -> None:
        await self.db.tx(lambda tx: self.replica.apply(tx, changes))

    def refused(self, reason: str) -> float:
        return self.metrics.counter("skerry_edge_sync_refused_total", "").value(reason)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    db = Database.open(tmp_path / "edge.db", [sync.SCHEMA])
    store = await Store.open(db, kinds.registry(), ManualClock())
    yield Edge(db, store)
    await db.close()


def device(uid: str = "u1", name: str = "kiln", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": "77"},
        "spec": {"nodeName": "gw-1", **spec},
    }


def change(key: str, obj: dict[str, Any]) -> StateChange:
    return StateChange(key, canonical.encode(obj), canonical.digest(obj))


async def test_an_object_from_the_cloud_is_stored_and_held_by_its_digest(edge: Edge) -> None:
    await edge.apply(change(KILN, device()))

    found = edge.store.get(kinds.DEVICE, "default", "kiln")
    assert found is not None
    assert found["metadata"]["uid"] == "u1"
    assert edge.replica.held() == {KILN: canonical.digest(device())}


async def test_what_is_held_survives_a_restart(edge: Edge) -> None:
    await edge.apply(change(KILN, device()))

    assert edge.restarted().held() == edge.replica.held()


async def test_a_deletion_leaves_nothing(edge: Edge) -> None:
    await edge.apply(change(KILN, device()))
    await edge.apply(StateChange(KILN, None))
    await edge.apply(StateChange(KILN, None))

    assert edge.store.get(kinds.DEVICE, "default", "kiln") is None
    assert edge.replica.held() == {}
    assert edge.restarted().held() == {}


async def test_a_device_made_again_under_its_name_is_seen_as_an_end_and_a_beginning(edge: Edge) -> None:
    await edge.apply(change(KILN, device("u1")))
    await edge.apply(change(KILN, device("u2")))

    assert edge.seen == ["ADDED u1", "DELETED u1", "ADDED u2"]


async def test_both_generations_in_one_transaction_are_told_apart(edge: Edge) -> None:
    await edge.apply(change(KILN, device("u1")), change(KILN, device("u2")))

    assert edge.seen == ["ADDED u1", "DELETED u1", "ADDED u2"]


async def test_a_transaction_that_fails_holds_nothing(edge: Edge) -> None:
    def fail(tx: Any) -> None:
        edge.replica.apply(tx, [change(KILN, device())])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await edge.db.tx(fail)

    assert edge.replica.held() == {}
    assert edge.store.get(kinds.DEVICE, "default", "kiln") is None


async def test_the_own_node_keeps_the_status_that_the_edge_owns(edge: Edge) -> None:
    mine = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1", "uid": "n1"}, "status": {"phase": "cloud"}}
    assert not edge.replica.knows_node()
    await edge.apply(change(NODE, mine))

    found = edge.store.get(kinds.NODE, "", "gw-1")
    assert found is not None
    assert found["status"] == {"phase": "local"}
    assert edge.replica.knows_node()


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("nonsense", b"{}"),
        ("core/secrets/default/root", canonical.encode(device())),
        ("core/nodes/-/gw-2", canonical.encode(device())),
        (KILN, b"not json"),
        (KILN, b"[]"),
        (KILN, b'{"metadata": 3}'),
        (KILN, b"[" * 100_000),
        (KILN, b'{"metadata": {"name": "kiln", "namespace": "default", "uid": "\xff"}}'),
        (KILN, canonical.encode(device(name="oven"))),
    ],
)
async def test_one_bad_object_is_counted_and_the_others_go_on(edge: Edge, key: str, body: bytes) -> None:
    good = change("devices.kubeedge.io/devices/default/oven", device(name="oven"))

    await edge.apply(StateChange(key, body), good)

    assert list(edge.replica.held()) == [good.key]
    assert edge.refused("malformed") == 1


async def test_an_unknown_message_is_counted(edge: Edge) -> None:
    await edge.db.tx(lambda tx: edge.replica.apply_messages(tx, [MessageRow(1, "dance", b"")]))

    assert edge.refused("unknown message") == 1


async def test_the_statuses_are_the_devices_and_the_nodes_own(edge: Edge) -> None:
    assert edge.replica.statuses() == {"k": b"v"}

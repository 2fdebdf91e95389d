"""Pods, definitions and messages as they come from the cloud."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgecore import kinds, sync
from edgecore.sync import MessageHandler, Replica
from kubeapi.kinds import POD
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange
from tests.kit.clock import ManualClock

WEB = "core/pods/default/web"
BREAD = "bakery.example/recipes/default/bread"
RECIPES = "apiextensions.k8s.io/customresourcedefinitions/-/recipes.bakery.example"


class Aside:
    """Offline writes of the keys in ``waiting``."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.kept: dict[str, bytes | None] = {}

    def park(self, tx: Tx, key: str, body: bytes | None) -> bool:
        del tx
        if key in self.waiting:
            self.kept[key] = body
        return key in self.waiting

    def localize(self, tx: Tx, key: str, obj: dict[str, Any]) -> None:
        del tx, key
        obj["metadata"].setdefault("labels", {})["here"] = "yes"


class Edge:
    def __init__(self, db: Database, store: Store) -> None:
        self.db, self.store, self.metrics = db, store, Metrics()
        self.offline: Aside | None = None
        self.messages: dict[str, MessageHandler] = {}
        self.replica = self.started()

    def started(self) -> Replica:
        self.replica = Replica(
            "gw-1",
            self.db,
            self.store,
            self.store.registry,
            statuses_of=dict,
            node_status=lambda: None,
            metrics=self.metrics,
            messages=self.messages,
            offline=self.offline,
        )
        return self.replica

    async def restarted(self) -> None:
        """Read everything from disk again, as a new process does."""
        self.store = await Store.open(self.db, kinds.registry(), ManualClock())
        self.started()

    async def apply(self, *changes: StateChange) -> None:
        await self.db.tx(lambda tx: self.replica.apply(tx, changes))

    async def say(self, name: str, **status: Any) -> None:
        obj = {**self.pod(name), "status": status}
        await self.db.tx(lambda tx: self.store.put(tx, POD, obj))

    def pod(self, name: str = "web") -> dict[str, Any]:
        return self.store.get(POD, "default", name) or {}

    def recipes(self) -> list[str]:
        resource = self.store.registry.find("bakery.example", "v1", "recipes")
        return [] if resource is None else [each["metadata"]["name"] for each in self.store.list(resource, None)]

    def refused(self, reason: str) -> float:
        return self.metrics.counter("skerry_edge_sync_refused_total", "").value(reason)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    db = Database.open(tmp_path / "edge.db", [sync.SCHEMA])
    yield Edge(db, await Store.open(db, kinds.registry(), ManualClock()))
    await db.close()


def pod(uid: str = "u1", image: str = "web:1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "default", "uid": uid, **fields.pop("metadata", {})}
    spec = {"nodeName": "gw-1", "containers": [{"name": "main", "image": image}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, **fields}


def crd() -> dict[str, Any]:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    names = {"plural": "recipes", "kind": "Recipe"}
    spec = {"group": "bakery.example", "scope": "Namespaced", "names": names, "versions": [version]}
    metadata = {"name": "recipes.bakery.example", "uid": "c1"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


def bread() -> dict[str, Any]:
    metadata = {"name": "bread", "namespace": "default", "uid": "b1"}
    return {"apiVersion": "bakery.example/v1", "kind": "Recipe", "metadata": metadata, "spec": {"salt": "2 g"}}


def change(key: str, obj: dict[str, Any]) -> StateChange:
    return StateChange(key, canonical.encode(obj), canonical.digest(obj))


async def test_a_status_written_here_stays_with_its_pod_and_is_not_the_next_ones(edge: Edge) -> None:
    await edge.apply(change(WEB, pod()))
    await edge.say("web", phase="Running")

    await edge.apply(change(WEB, pod(image="web:2")))
    assert edge.pod()["status"] == {"phase": "Running"}
    assert edge.pod()["spec"]["containers"][0]["image"] == "web:2"

    await edge.apply(change(WEB, pod("u2")))
    assert "status" not in edge.pod()


async def test_a_pod_that_finished_before_the_disk_was_wiped_comes_finished(edge: Edge) -> None:
    finished = pod(status={"phase": "Succeeded"})

    await edge.apply(change(WEB, finished))

    assert edge.pod()["status"]["phase"] == "Succeeded"
    assert edge.replica.held() == {WEB: canonical.digest(pod())}


async def test_a_pod_that_the_cloud_calls_failed_is_failed_here_and_one_that_ended_here_keeps_its_words(
    edge: Edge,
) -> None:  # POD-16
    await edge.apply(change(WEB, pod()))
    await edge.say("web", phase="Running", containerStatuses=[])
    failed = {"phase": "Failed", "reason": "NodeLost"}

    await edge.apply(change(WEB, pod(status=failed, told={"phase": "Failed"})))
    assert edge.pod()["status"] == failed
    assert "told" not in edge.pod()
    assert edge.replica.held() == {WEB: canonical.digest(pod(told={"phase": "Failed"}))}

    await edge.say("web", phase="Failed", reason="NodeLost", message="ended here")
    tellings: tuple[dict[str, Any], ...] = ({"told": {"phase": "Failed"}}, {})
    for told in tellings:
        await edge.apply(change(WEB, pod(status=failed, **told)))
        assert edge.pod()["status"]["message"] == "ended here"


async def test_conditions_of_readiness_gates_are_the_clouds_and_the_others_are_ours(edge: Edge) -> None:  # POD-16
    gated: dict[str, Any] = {"spec": {"readinessGates": [{"conditionType": "lb"}]}}
    up, ready = {"type": "lb", "status": "True"}, {"type": "Ready", "status": "False"}

    await edge.apply(change(WEB, pod(**gated, told={"conditions": [up]})))
    assert edge.pod()["status"] == {"conditions": [up]}

    await edge.say("web", phase="Running", conditions=[ready, up])
    down = {**up, "status": "False"}
    await edge.apply(change(WEB, pod(**gated, told={"conditions": [down]})))
    assert edge.pod()["status"] == {"phase": "Running", "conditions": [ready, down]}

    await edge.apply(change(WEB, pod(**gated)))
    assert edge.pod()["status"]["conditions"] == [ready]


async def test_a_mirror_is_known_and_leaves_the_static_pod_as_it_is(edge: Edge) -> None:
    static = pod("h1")
    await edge.db.tx(lambda tx: edge.store.put(tx, POD, static))
    told: list[int] = []
    edge.replica.mirrors_changed = lambda: told.append(1)

    await edge.apply(change(WEB, pod("m1", metadata={"annotations": {"kubernetes.io/config.mirror": "h1"}})))
    assert edge.replica.mirrors() == edge.started().mirrors() == {WEB: "m1"}
    assert edge.pod()["metadata"]["uid"] == "h1"
    assert WEB in edge.replica.held()
    assert told == [1]

    await edge.apply(StateChange(WEB, None))
    assert edge.replica.mirrors() == edge.started().mirrors() == {}
    assert edge.pod()["metadata"]["uid"] == "h1"


@pytest.mark.parametrize("order", [(RECIPES, BREAD), (BREAD, RECIPES)])
async def test_objects_and_their_definition_may_come_in_any_order(edge: Edge, order: tuple[str, str]) -> None:
    bodies = {RECIPES: crd(), BREAD: bread()}
    for key in order:
        await edge.apply(change(key, bodies[key]))

    assert edge.recipes() == ["bread"]
    assert edge.replica.held() == {key: canonical.digest(body) for key, body in bodies.items()}


async def test_definitions_are_served_after_a_restart(edge: Edge) -> None:
    await edge.apply(change(RECIPES, crd()), change(BREAD, bread()))

    await edge.restarted()

    assert edge.recipes() == ["bread"]


@pytest.mark.parametrize("order", [(RECIPES, BREAD), (BREAD, RECIPES)])
async def test_a_definition_takes_its_objects_with_it(edge: Edge, order: tuple[str, str]) -> None:
    await edge.apply(change(RECIPES, crd()), change(BREAD, bread()))

    for key in order:
        await edge.apply(StateChange(key, None))

    assert edge.recipes() == []
    assert edge.replica.held() == {}
    await edge.apply(change(RECIPES, crd()))
    assert edge.recipes() == []


async def test_an_early_object_that_goes_again_leaves_nothing(edge: Edge) -> None:
    await edge.apply(change(BREAD, bread()))
    await edge.apply(StateChange(BREAD, None))
    await edge.apply(change(RECIPES, crd()))

    assert edge.recipes() == []


async def test_a_definition_of_a_failed_transaction_is_not_served(edge: Edge) -> None:
    def fail(tx: Tx) -> None:
        edge.replica.apply(tx, [change(RECIPES, crd())])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await edge.db.tx(fail)

    assert edge.store.registry.find("bakery.example", "v1", "recipes") is None


async def test_a_device_definition_adds_its_schema_and_its_end_leaves_devices_served(edge: Edge) -> None:
    devices = crd()
    devices["metadata"]["name"] = "devices.devices.kubeedge.io"
    devices["spec"] |= {"group": kinds.DEVICES_GROUP, "names": {"plural": "devices", "kind": "Device"}}
    devices["spec"]["versions"][0]["name"] = "v1beta1"
    key = "apiextensions.k8s.io/customresourcedefinitions/-/devices.devices.kubeedge.io"

    await edge.apply(change(key, devices))
    assert _served(edge).schema is not None

    await edge.apply(StateChange(key, None))
    assert _served(edge) == kinds.DEVICE


def _served(edge: Edge) -> Resource:
    found = edge.store.registry.by_storage(kinds.DEVICE.storage)
    assert found is not None
    return found


async def test_what_waits_for_the_cloud_is_not_overwritten_and_counts_as_held(edge: Edge) -> None:
    edge.offline = Aside()
    edge.started()
    await edge.apply(change(WEB, pod()))
    edge.offline.waiting.add(WEB)

    newer = change(WEB, pod(image="web:2"))
    await edge.apply(newer)
    assert edge.pod()["spec"]["containers"][0]["image"] == "web:1"
    assert edge.replica.held() == {WEB: newer.digest}

    await edge.db.tx(lambda tx: edge.replica.show(tx, WEB, newer.body))
    assert edge.pod()["spec"]["containers"][0]["image"] == "web:2"
    assert edge.pod()["metadata"]["labels"] == {"here": "yes"}
    await edge.apply(StateChange(WEB, None))
    assert edge.offline.kept[WEB] is None
    assert edge.pod()
    assert edge.replica.held() == {}


def refuse(_tx: Tx, _row: MessageRow) -> None:
    raise MalformedMessage("no")


async def test_each_message_goes_to_who_knows_its_kind(edge: Edge) -> None:
    got: list[int] = []
    handler: Callable[[Tx, MessageRow], None] = lambda _tx, row: got.append(row.seq)  # noqa: E731
    edge.messages = {"dance": handler, "bad": refuse}
    edge.started()

    rows = [MessageRow(1, "dance", b""), MessageRow(2, "bad", b""), MessageRow(3, "dance", b"")]
    await edge.db.tx(lambda tx: edge.replica.apply_messages(tx, rows))

    assert got == [1, 3]
    assert edge.refused("malformed") == 1


async def test_a_secret_that_is_refused_is_not_in_the_log(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    words = "correct-horse-battery-staple"
    wrong = {"metadata": {"name": "other", "namespace": "default"}, "data": {"w": words}}

    await edge.apply(StateChange("core/secrets/default/words", canonical.encode(wrong)))

    assert edge.refused("malformed") == 1
    assert words not in caplog.text

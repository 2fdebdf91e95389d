"""The hub over the real API: what a node needs, what comes back from it, and what people see."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudcore.history import Query, read
from cloudcore.hub.owners import Owners
from cloudcore.kube.errors import NotFound
from cloudcore.kube.informer import Informer
from cloudcore.kube.resources import CRD, DEVICE, DEVICE_MODEL, DEVICE_STATUS, EVENT, LEASE, NODE
from proto.kit import canonical
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange
from tests.kit.cloud import Cloud, running, status_change
from tests.kit.wait import eventually

KILN, THERMO = DEVICE.key("default", "kiln"), DEVICE_MODEL.key("default", "thermo")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as made:
        yield made


def holds(cloud: Cloud, node: str) -> set[str]:
    """All but what every node has: the definitions, and the rights of the technicians."""
    everywhere = (CRD.group, "rbac.authorization.k8s.io")
    return {key for key in cloud.hub.scope.wanted(node) if not key.startswith(everywhere)}


async def conditions(cloud: Cloud, name: str = "kiln") -> dict[str, tuple[str, str]]:
    found = await cloud.client.get(DEVICE, "default", name)
    return {c["type"]: (c["status"], c["reason"]) for c in (found.get("status") or {}).get("conditions") or []}


async def test_a_node_holds_its_devices_and_their_models(cloud: Cloud) -> None:
    await cloud.model()
    await cloud.model("unused")
    await cloud.device("kiln")
    await cloud.device("other", node="gw-2", model="")

    await eventually(lambda: holds(cloud, "gw-1") == {KILN, THERMO})
    assert (await eventually(lambda: holds(cloud, "gw-2"))) == {DEVICE.key("default", "other")}
    assert ("gw-1", KILN) in cloud.changes
    assert ("gw-2", KILN) not in cloud.changes


async def test_digests_are_those_of_the_bodies_that_are_sent(cloud: Cloud) -> None:
    await cloud.device("kiln")
    await eventually(lambda: KILN in holds(cloud, "gw-1"))
    wanted = cloud.hub.scope.wanted("gw-1")

    body = cloud.hub.scope.body("gw-1", KILN)

    assert body is not None
    assert canonical.digest(canonical.decode(body)) == wanted[KILN]
    assert "status" not in canonical.decode(body)
    assert cloud.hub.scope.body("gw-2", KILN) is None


async def test_a_device_that_moves_is_told_to_both_nodes(cloud: Cloud) -> None:
    await cloud.model()
    await cloud.device("kiln")
    await eventually(lambda: holds(cloud, "gw-1"))
    cloud.changes.clear()

    patch = [{"op": "replace", "path": "/spec/nodeName", "value": "gw-2"}]
    await cloud.client.patch(DEVICE, "default", "kiln", patch, content_type="application/json-patch+json")
    await eventually(lambda: holds(cloud, "gw-2") == {KILN, THERMO})

    assert {("gw-1", KILN), ("gw-1", THERMO), ("gw-2", KILN), ("gw-2", THERMO)} <= set(cloud.changes)
    assert holds(cloud, "gw-1") == set()


async def test_a_report_reaches_the_device_status(cloud: Cloud) -> None:
    device = await cloud.device("kiln")
    await eventually(lambda: holds(cloud, "gw-1"))

    twins = [{"propertyName": "temp", "reported": {"value": "21", "metadata": {}}}]
    await cloud.hub.upstream.apply("gw-1", [status_change("kiln", device["metadata"]["uid"], 1, twins=twins)])

    assert (await cloud.status("kiln"))["twins"] == twins
    found = await cloud.client.get(DEVICE_STATUS, "default", "kiln")
    assert found["metadata"]["ownerReferences"][0]["uid"] == device["metadata"]["uid"]


async def test_only_the_newest_of_many_reports_must_be_written(cloud: Cloud) -> None:
    device = await cloud.device("kiln")
    await eventually(lambda: holds(cloud, "gw-1"))

    changes = [status_change("kiln", device["metadata"]["uid"], n, lastOnlineTime=_at(n)) for n in range(1, 51)]
    await cloud.hub.upstream.apply("gw-1", changes)

    assert (await cloud.status("kiln"))["lastOnlineTime"] == _at(50)
    assert cloud.metrics.counter("skerry_cloud_status_writes_total", "").value() < 10


def _at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02d}Z"


async def test_an_older_version_never_replaces_a_newer_one(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await eventually(lambda: holds(cloud, "gw-1"))
    await cloud.hub.upstream.apply("gw-1", [status_change("kiln", uid, 5, lastOnlineTime=_at(5))])

    await cloud.hub.upstream.apply("gw-1", [status_change("kiln", uid, 4, lastOnlineTime=_at(4))])

    assert (await cloud.status("kiln"))["lastOnlineTime"] == _at(5)


@pytest.mark.parametrize(
    ("node", "uid", "reason"), [("gw-1", "u-of-an-earlier-one", "wrong-uid"), ("gw-2", "", "not-this-node")]
)
async def test_a_status_for_another_device_is_dropped_and_counted(
    cloud: Cloud, node: str, uid: str, reason: str
) -> None:
    device = await cloud.device("kiln")
    await eventually(lambda: holds(cloud, "gw-1"))

    await cloud.hub.upstream.apply(node, [status_change("kiln", uid or device["metadata"]["uid"], 1)])

    assert "twins" not in await cloud.status("kiln")
    assert cloud.metrics.counter("skerry_cloud_status_dropped_total", "", ("reason",)).value(reason) == 1


async def test_a_device_made_again_inherits_nothing(cloud: Cloud) -> None:
    first = await cloud.device("kiln")
    await eventually(lambda: holds(cloud, "gw-1"))
    await cloud.hub.upstream.apply("gw-1", [status_change("kiln", first["metadata"]["uid"], 9)])
    await cloud.client.delete(DEVICE, "default", "kiln")
    second = await cloud.device("kiln")

    async def renewed() -> bool:
        try:
            found = await cloud.client.get(DEVICE_STATUS, "default", "kiln")
        except NotFound:
            return False
        return bool(found["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"])

    await eventually(renewed)
    assert "twins" not in await cloud.status("kiln")


async def test_a_device_of_a_node_that_is_away_is_stale_and_not_called_synced(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await eventually(lambda: holds(cloud, "gw-1"))
    await cloud.hub.replica.connected("gw-1", 1)
    synced = [_condition("Synced", "True", "AllReported"), _condition("Stale", "False", "Reporting")]
    change = status_change("kiln", uid, 1, conditions=synced, extensions={"observedGeneration": 1})
    await cloud.hub.upstream.apply("gw-1", [change])

    async def is_synced() -> bool:
        return (await conditions(cloud)).get("Synced") == ("True", "AllReported")

    await eventually(is_synced)
    await cloud.hub.replica.lost("gw-1", 1)

    async def is_stale() -> bool:
        found = await conditions(cloud)
        return found["Stale"] == ("True", "NodeNotConnected") and found["Synced"] == ("Unknown", "NodeNotConnected")

    await eventually(is_stale)


def _condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": _at(0)}


async def test_a_generation_that_has_not_arrived_is_pending(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await cloud.hub.replica.connected("gw-1", 1)
    await eventually(lambda: holds(cloud, "gw-1"))
    synced = [_condition("Synced", "True", "AllReported"), _condition("Pending", "False", "InSync")]
    await cloud.hub.upstream.apply(
        "gw-1", [status_change("kiln", uid, 1, conditions=synced, extensions={"observedGeneration": 1})]
    )
    patch = [{"op": "add", "path": "/spec/properties", "value": [{"name": "temp", "desired": {"value": "9"}}]}]
    await cloud.client.patch(DEVICE, "default", "kiln", patch, content_type="application/json-patch+json")

    async def is_pending() -> bool:
        found = await conditions(cloud)
        return found.get("Pending") == ("True", "NotDelivered") and found["Synced"] == ("False", "NotDelivered")

    await eventually(is_pending)


async def test_an_unassigned_device_says_so(cloud: Cloud) -> None:
    await cloud.device("kiln", node="")

    async def says_so() -> bool:
        return (await conditions(cloud)).get("Synced") == ("False", "NotAssigned")

    await eventually(says_so)


async def ready(cloud: Cloud, node: str = "gw-1") -> str:
    try:
        found = await cloud.client.get(NODE, "", node)
    except NotFound:
        return ""
    listed = (found.get("status") or {}).get("conditions") or []
    return next((str(c["status"]) for c in listed if c["type"] == "Ready"), "")


async def node_is(cloud: Cloud, wanted: str) -> None:
    async def check() -> bool:
        return await ready(cloud) == wanted

    await eventually(check)


async def test_a_connected_edge_is_a_ready_node_and_an_absent_one_is_not(cloud: Cloud) -> None:
    await cloud.hub.replica.connected("gw-1", 1)
    await node_is(cloud, "True")

    status = {"conditions": [_condition("Ready", "True", "EdgeReady")], "capacity": {"cpu": "4"}}
    body = msgspec.json.encode({"uid": "", "version": 1, "status": status})
    await cloud.hub.upstream.apply("gw-1", [StateChange(NODE.key("", "gw-1"), body)])
    await cloud.hub.replica.lost("gw-1", 1)
    await node_is(cloud, "Unknown")
    await cloud.hub.replica.connected("gw-1", 2)

    await node_is(cloud, "True")
    assert (await cloud.client.get(NODE, "", "gw-1"))["status"]["capacity"] == {"cpu": "4"}


async def test_a_node_may_not_write_another_nodes_status(cloud: Cloud) -> None:
    body = msgspec.json.encode({"uid": "", "version": 1, "status": {}})

    await cloud.hub.upstream.apply("gw-1", [StateChange(NODE.key("", "gw-2"), body)])

    assert cloud.metrics.counter("skerry_cloud_status_dropped_total", "", ("reason",)).value("not-this-node") == 1


def message(seq: int, kind: str, body: Any) -> MessageRow:
    return MessageRow(seq, kind, msgspec.json.encode(body))


async def test_registration_events_and_leases_reach_the_api(cloud: Cloud) -> None:
    node = {"metadata": {"name": "gw-1", "labels": {"site": "mill"}}}
    event = {"involvedObject": {"kind": "Node", "name": "gw-1"}, "reason": "Rebooted", "message": "power came back"}
    rows = [message(1, "register", node), message(2, "event", event), message(3, "lease", {})]

    await cloud.hub.replica.apply_messages("gw-1", "disk-1", rows)
    await cloud.hub.replica.apply_messages("gw-1", "disk-1", rows)

    async def arrived() -> bool:
        events = [e for e in (await cloud.client.list(EVENT))["items"] if e["source"].get("host") == "gw-1"]
        leases = (await cloud.client.list(LEASE))["items"]
        return [e["reason"] for e in events] == ["Rebooted"] and [x["metadata"]["name"] for x in leases] == ["gw-1"]

    await eventually(arrived)
    assert (await cloud.client.get(NODE, "", "gw-1"))["metadata"]["labels"]["site"] == "mill"


async def test_an_event_about_somebody_else_is_dropped_and_counted(cloud: Cloud) -> None:
    event = {"involvedObject": {"kind": "Node", "name": "gw-2"}, "reason": "Lie"}

    await cloud.hub.replica.apply_messages("gw-1", "disk-1", [message(1, "event", event)])

    dropped = cloud.metrics.counter("skerry_cloud_effects_dropped_total", "", ("kind",))
    await eventually(lambda: dropped.value("event") == 1)
    assert (await cloud.client.list(EVENT))["items"] == []


def history_row(seq: int, uid: str, name: str = "kiln") -> MessageRow:
    return message(seq, "history", ["default", name, uid, 1, seq, {"temp": str(seq)}])


async def stored(cloud: Cloud) -> list[tuple[str, str]]:
    query = Query("default", "kiln")
    return await cloud.sql.read(lambda conn: [(row["node"], row["value"]) for row in read(conn, query)])


async def test_nobody_reports_about_another_nodes_device(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await eventually(lambda: holds(cloud, "gw-1"))

    await cloud.hub.replica.apply_messages("gw-2", "disk-2", [history_row(1, uid), history_row(2, "made-up")])
    await cloud.hub.replica.apply_messages("gw-1", "disk-1", [history_row(3, uid)])

    assert await stored(cloud) == [("gw-1", "3")]
    assert cloud.metrics.counter("skerry_cloud_history_foreign_total", "").value() == 2


async def test_late_reports_of_a_device_that_moved_or_is_gone_are_kept(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await eventually(lambda: holds(cloud, "gw-1"))
    patch = [{"op": "replace", "path": "/spec/nodeName", "value": "gw-2"}]
    await cloud.client.patch(DEVICE, "default", "kiln", patch, content_type="application/json-patch+json")
    await eventually(lambda: holds(cloud, "gw-2"))

    await cloud.hub.replica.apply_messages("gw-1", "disk-1", [history_row(1, uid)])
    await cloud.client.delete(DEVICE, "default", "kiln")
    await eventually(lambda: not holds(cloud, "gw-2"))
    await cloud.hub.replica.apply_messages("gw-1", "disk-1", [history_row(2, uid)])

    assert await stored(cloud) == [("gw-1", "1"), ("gw-1", "2")]


async def test_a_new_process_remembers_who_had_a_device(cloud: Cloud) -> None:
    uid = (await cloud.device("kiln"))["metadata"]["uid"]
    await eventually(lambda: holds(cloud, "gw-1"))

    async def written() -> bool:
        later = Owners(cloud.sql, _no_devices(cloud), SystemClock())
        await later.load()
        known = later.may_report("gw-1", "default", "kiln", uid)
        return known and not later.may_report("gw-2", "default", "kiln", uid)

    await eventually(written)


def _no_devices(cloud: Cloud) -> Informer:
    return Informer(cloud.client, DEVICE, clock=SystemClock(), rng=Rng(1), metrics=Metrics())


async def test_a_fenced_copy_is_told_to_people(cloud: Cloud) -> None:
    await cloud.hub.replica.fenced("gw-1", "epoch 3 was granted to another disk")

    async def told() -> bool:
        events = (await cloud.client.list(EVENT))["items"]
        return [(event["reason"], event["type"]) for event in events] == [("NodeFenced", "Warning")]

    await eventually(told)

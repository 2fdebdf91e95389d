"""A forged node name inside a payload gets nothing: the node is who its certificate says, whatever the body claims."""

from pathlib import Path
from typing import Any

import msgspec

from cloudcore.kube.resources import DEVICE, EVENT, LEASE, NODE
from proto.link.replica import MessageRow, StateChange
from tests.kit.cloud import Cloud, running, status_change
from tests.kit.wait import eventually


def node_status(name: str) -> StateChange:
    body = {"uid": "", "version": 1, "status": {"nodeInfo": {"machineID": "forged"}}}
    return StateChange(NODE.key("", name), msgspec.json.encode(body))


def forged_messages() -> list[MessageRow]:
    about = {"reason": "Forged", "message": "x", "type": "Warning"}
    bodies: list[tuple[str, Any]] = [
        ("event", {**about, "involvedObject": {"kind": "Node", "name": "gw-1"}}),
        ("event", {**about, "involvedObject": {"kind": "Device", "namespace": "default", "name": "kiln"}}),
        ("event", {**about, "involvedObject": {"kind": "Secret", "namespace": "default", "name": "x"}}),
        ("event", {**about, "involvedObject": None}),
        ("register", {"kind": "Node", "metadata": {"name": "gw-1", "labels": {"forged": "yes"}}}),
        ("lease", {"holderIdentity": "gw-1", "node": "gw-1"}),
    ]
    return [MessageRow(seq, kind, msgspec.json.encode(body)) for seq, (kind, body) in enumerate(bodies, start=1)]


async def items(cloud: Cloud, kind: Any) -> list[dict[str, Any]]:
    return list((await cloud.client.list(kind)).get("items") or [])


async def test_statuses_events_registrations_and_leases_of_another_node_are_not_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        device = await cloud.device("kiln", node="gw-1")
        await cloud.device("oven", node="gw-2")
        await eventually(lambda: cloud.hub.scope.devices("gw-1") and cloud.hub.scope.devices("gw-2"))
        before = await cloud.status("kiln")

        await cloud.hub.replica.connected("gw-2", 1)
        kiln = status_change("kiln", device["metadata"]["uid"], 99, lastOnlineTime="2026-01-01T00:00:00Z")
        await cloud.hub.replica.apply_statuses("gw-2", [kiln, node_status("gw-1")])
        await cloud.hub.replica.apply_messages("gw-2", "incarnation", forged_messages())
        dropped = cloud.metrics.counter("skerry_cloud_effects_dropped_total", "", ("kind",))
        await eventually(lambda: dropped.value("event") == 4)

        assert await cloud.status("kiln") == before
        nodes = {node["metadata"]["name"]: node for node in await items(cloud, NODE)}
        forged = [name for name, node in nodes.items() if "forged" in str(node.get("status")) + str(name)]
        assert forged == []
        assert "forged" not in (nodes.get("gw-1", {}).get("metadata", {}).get("labels") or {})
        assert [event for event in await items(cloud, EVENT) if event["reason"] == "Forged"] == []
        assert "gw-1" not in {lease["metadata"]["name"] for lease in await items(cloud, LEASE)}
        assert (await cloud.client.get(DEVICE, "default", "oven"))["spec"]["nodeName"] == "gw-2"

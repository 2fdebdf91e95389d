"""A model and devices to test with, and a device that speaks MQTT."""

from typing import Any

import msgspec
from aiomqtt import Client

API = "devices.kubeedge.io/v1beta1"
MODEL: dict[str, Any] = {
    "apiVersion": API,
    "kind": "DeviceModel",
    "metadata": {"name": "oven", "namespace": "default"},
    "spec": {
        "properties": [
            {"name": "temperature", "type": "INT", "accessMode": "ReadOnly"},
            {"name": "target", "type": "INT", "accessMode": "ReadWrite"},
        ]
    },
}


def oven(name: str = "kiln", node: str = "gw-1", target: str = "") -> dict[str, Any]:
    """A Device of that model; ``target`` is its desired value."""
    wanted = {"desired": {"value": target}} if target else {}
    return {
        "apiVersion": API,
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "deviceModelRef": {"name": "oven"},
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": "temperature"}, {"name": "target", **wanted}],
        },
    }


def report_body(**values: str) -> bytes:
    """The payload of a ``twin/update`` that reports ``values``."""
    return msgspec.json.encode({"twin": {name: {"actual": {"value": value}} for name, value in values.items()}})


async def report(port: int, device: str = "kiln", **values: str) -> None:
    """Publish one report at QoS 1; on return the edge has it on disk."""
    async with Client("127.0.0.1", port) as client:
        await client.publish(f"$hw/events/device/{device}/twin/update", report_body(**values), qos=1)

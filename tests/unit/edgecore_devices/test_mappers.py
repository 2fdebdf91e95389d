"""Mappers inside edgecore: each is on its own (TWIN-17)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from devicetwin.mapper import BadConfig, MapperContext, Unreachable, WriteFailed
from edgecore.devices.mappers import Mappers
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from tests.kit.wait import eventually
from tests.unit.edgecore_devices.room import KILN, MODEL, Room, device, open_room


class Scripted:
    """A mapper that does what the test says."""

    protocol: ClassVar[str] = "scripted"
    live: ClassVar[dict[str, "Scripted"]] = {}

    def __init__(self, context: MapperContext) -> None:
        if context.spec.config.get("bad"):
            raise BadConfig("protocol.configData.bad: must not be set")
        self.values = {"temperature": "20.5", "setpoint": "10"}
        self.failing: Exception | None = None
        self.refusing = ""
        self.known: Mapping[str, str] = {}
        self.closed = 0
        Scripted.live[context.spec.id.name] = self

    async def open(self, known: Mapping[str, str]) -> None:
        self.known = known

    async def read(self) -> Mapping[str, str]:
        if self.failing is not None:
            raise self.failing
        return self.values

    async def write(self, name: str, value: str) -> None:
        if self.refusing:
            raise WriteFailed(self.refusing)
        self.values[name] = value

    async def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Room]:
    async with open_room(folder, SystemClock()) as room:
        mappers = Mappers(
            "gw-1",
            room.controller,
            {"scripted": Scripted},
            clock=room.clock,
            rng=Rng(1),
            metrics=room.metrics,
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(mappers.run())
            try:
                yield room
            finally:
                task.cancel()


def mapped(name: str = "kiln", config: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    obj = device(name, protocol={"protocolName": "scripted", "configData": config or {}}, **kwargs)
    obj["metadata"]["uid"] = f"uid-{name}"
    for entry in obj["spec"]["properties"]:
        entry["collectCycle"] = 20
    return obj


async def test_what_a_mapper_reads_becomes_the_twin(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())

        await eventually(lambda: room.twin("temperature").get("reported", {}).get("value") == "20.5")
        await eventually(lambda: room.status()["state"] == "online")


async def test_a_desired_value_is_written_and_confirmed(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())
        await room.put(mapped(generation=2, desired={"setpoint": "900"}))

        await eventually(lambda: room.twin("setpoint").get("reported", {}).get("value") == "900")
        await eventually(lambda: room.condition("Synced")["status"] == "True")


async def test_a_crash_restarts_only_that_mapper_and_shows(tmp_path: Path) -> None:
    """TWIN-17"""
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped("kiln"), mapped("oven"))
        await eventually(lambda: room.twin("temperature", "oven") and room.twin("temperature", "kiln"))
        first, oven = Scripted.live["kiln"], Scripted.live["oven"]

        first.failing = ZeroDivisionError("planted")

        await eventually(lambda: room.status()["state"] == "unhealthy")
        assert room.condition("Stale")["message"] == "values are the last known ones: ZeroDivisionError: planted"
        await eventually(lambda: Scripted.live["kiln"] is not first)
        await eventually(lambda: room.status()["state"] == "online")
        assert first.closed == 1
        assert Scripted.live["kiln"].known["temperature"] == "20.5"
        assert Scripted.live["oven"] is oven
        assert oven.closed == 0


async def test_an_unreachable_device_is_offline_until_it_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())
        await eventually(lambda: room.twin("temperature"))

        Scripted.live["kiln"].failing = Unreachable("no carrier")

        await eventually(lambda: room.status()["state"] == "offline")
        await eventually(lambda: room.status()["state"] == "online")


async def test_a_refused_write_is_pending_with_its_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())
        await eventually(lambda: room.twin("temperature"))
        Scripted.live["kiln"].refusing = "the door is open"

        await room.put(mapped(generation=2, desired={"setpoint": "900"}))

        await eventually(lambda: room.condition("Pending").get("reason") == "WriteFailed")
        assert room.condition("Pending")["message"] == "writing setpoint failed: the door is open"


async def test_a_wrong_configuration_is_said_and_a_right_one_starts(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped(config={"bad": True}))
        await eventually(lambda: room.status().get("state") == "unhealthy")
        assert "protocol.configData.bad" in room.condition("Stale")["message"]

        await room.put(mapped(generation=2))

        await eventually(lambda: room.status()["state"] == "online")


async def test_a_reading_that_the_model_refuses_does_not_hide_the_others(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())
        await eventually(lambda: room.twin("temperature"))

        Scripted.live["kiln"].values |= {"temperature": "999999", "setpoint": "77"}

        await eventually(lambda: room.twin("setpoint")["reported"]["value"] == "77")
        assert room.twin("temperature")["reported"]["value"] == "20.5"


async def test_an_apps_override_is_written_and_a_newer_generation_takes_over(tmp_path: Path) -> None:
    """TWIN-5"""
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped(desired={"setpoint": "900"}))
        await eventually(lambda: room.twin("setpoint").get("reported", {}).get("value") == "900")

        await room.send(
            "$hw/events/device/default/kiln/twin/update", {"twin": {"setpoint": {"expected": {"value": "950"}}}}
        )
        await eventually(lambda: room.twin("setpoint")["reported"]["value"] == "950")

        await room.put(mapped(generation=2, desired={"setpoint": "900"}))
        await eventually(lambda: room.twin("setpoint")["reported"]["value"] == "900")


async def test_a_removed_device_closes_its_mapper(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        await room.put(MODEL, mapped())
        await eventually(lambda: room.twin("temperature"))
        mapper = Scripted.live["kiln"]

        await room.remove("kiln")

        await eventually(lambda: mapper.closed == 1)
        assert KILN not in room.controller.entries

"""PORT Mapper: what every mapper promises. A new mapper is done when its thin class here is green."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, ClassVar

import pytest

from devicetwin.mapper import BadConfig, Mapper, MapperContext, PeriodicMapper, WriteFailed
from devicetwin.mappers import FACTORIES
from devicetwin.mappers.host import sources
from devicetwin.mappers.host.mapper import HostMapper
from devicetwin.mappers.simulated.mapper import SimulatedMapper
from devicetwin.model import DeviceSpec, read_device
from proto.kit.backoff import Rng
from tests.kit.clock import ManualClock


class MapperConformance:
    """Supply a factory, a model and a device; ``settable`` names one writable property, a good and a bad value."""

    factory: ClassVar[Any]  # a MapperFactory; typed so, mypy would bind it like a method
    properties: ClassVar[list[dict[str, Any]]]
    config: ClassVar[dict[str, Any]] = {}
    settable: ClassVar[tuple[str, str, str]]
    read_only: ClassVar[str]

    def spec(self, config: Mapping[str, Any] | None = None) -> DeviceSpec:
        model = {"metadata": {"name": "m"}, "spec": {"properties": self.properties}}
        chosen = self.config if config is None else config
        device = {
            "metadata": {"name": "d", "namespace": "default", "uid": "u", "generation": 1},
            "spec": {"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "x", "configData": chosen}},
        }
        return read_device(device, model)

    def make(self, clock: ManualClock | None = None, config: Mapping[str, Any] | None = None) -> Mapper:
        mapper: Mapper = type(self).factory(MapperContext(self.spec(config), clock or ManualClock(), Rng(1), "gw-1"))
        return mapper

    async def test_reads_known_properties_as_strings_that_the_model_allows(self) -> None:
        mapper = self.make()
        await mapper.open({})

        values = await mapper.read()

        assert values
        properties = self.spec().properties
        for name, value in values.items():
            assert isinstance(value, str)
            properties[name].check(value)

    async def test_what_was_written_is_what_is_read_next(self) -> None:
        name, good, _ = self.settable
        mapper = self.make()
        await mapper.open({})

        await mapper.write(name, good)

        assert (await mapper.read())[name] == good

    async def test_a_value_that_the_device_refuses_fails_the_write_and_changes_nothing(self) -> None:
        name, good, bad = self.settable
        mapper = self.make()
        await mapper.open({})
        await mapper.write(name, good)

        with pytest.raises(WriteFailed):
            await mapper.write(name, bad)

        assert (await mapper.read())[name] == good

    async def test_a_measured_property_refuses_a_write(self) -> None:
        mapper = self.make()
        await mapper.open({})

        with pytest.raises(WriteFailed):
            await mapper.write(self.read_only, "1")

    async def test_a_settable_value_comes_back_after_a_restart_from_what_was_reported(self) -> None:
        name, good, _ = self.settable
        mapper = self.make()

        await mapper.open({name: good})

        assert (await mapper.read())[name] == good

    async def test_close_may_come_twice_and_before_open(self) -> None:
        mapper = self.make()

        await mapper.close()
        await mapper.close()

    def test_a_wrong_setting_is_named(self) -> None:
        with pytest.raises(BadConfig, match=r"protocol\.configData.*nonsense"):
            self.make(config={"nonsense": 1})

    def test_declares_its_quality(self) -> None:
        protocol = type(self.make()).protocol
        text = (files(f"devicetwin.mappers.{protocol}") / "quality.toml").read_text(encoding="utf-8")

        quality = tomllib.loads(text)

        assert quality["level"] in ("bronze", "silver", "gold")
        assert all(quality["bronze"].values())
        assert FACTORIES[protocol] is type(self.make())


class TestSimulated(MapperConformance):
    factory = SimulatedMapper
    properties: ClassVar = [
        {
            "name": "temperature",
            "type": "DOUBLE",
            "accessMode": "ReadOnly",
            "minimum": "-40",
            "maximum": "60",
            "visitors": {"configData": {"kind": "follow", "follows": "setpoint", "lagS": 30, "noise": 0.1}},
        },
        {
            "name": "setpoint",
            "type": "INT",
            "minimum": "5",
            "maximum": "30",
            "visitors": {"configData": {"value": "20"}},
        },
    ]
    config: ClassVar = {"seed": 7}
    settable = ("setpoint", "22", "99")
    read_only = "temperature"

    async def test_the_same_seed_tells_the_same_story(self) -> None:
        stories = []
        for _ in range(2):
            clock = ManualClock()
            mapper = self.make(clock)
            await mapper.open({})
            story = []
            for _ in range(20):
                clock.advance(1.0)
                story.append(dict(await mapper.read()))
            stories.append(story)

        assert stories[0] == stories[1]

    async def test_temperature_approaches_the_set_point_with_lag(self) -> None:
        clock = ManualClock()
        mapper = self.make(clock)
        await mapper.open({})
        await mapper.read()
        await mapper.write("setpoint", "28")

        clock.advance(15.0)
        early = float((await mapper.read())["temperature"])
        clock.advance(300.0)
        late = float((await mapper.read())["temperature"])

        assert early < 26.0
        assert 27.0 < late < 29.0


class TestHost(MapperConformance):
    factory = HostMapper
    properties: ClassVar = [
        {"name": "load1", "type": "DOUBLE", "accessMode": "ReadOnly", "minimum": "0"},
        {"name": "memoryUsedPercent", "type": "FLOAT", "accessMode": "ReadOnly", "minimum": "0", "maximum": "100"},
        {"name": "diskFreeBytes", "type": "INT", "accessMode": "ReadOnly", "minimum": "0"},
        {"name": "uptimeS", "type": "INT", "accessMode": "ReadOnly"},
        {"name": "networkReceivedBytesPerS", "type": "DOUBLE", "accessMode": "ReadOnly"},
        {"name": "temperatureC", "type": "DOUBLE", "accessMode": "ReadOnly"},
        {"name": "reportPeriodMs", "type": "INT", "accessMode": "ReadWrite", "minimum": "100", "maximum": "3600000"},
        {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
    ]
    settable = ("reportPeriodMs", "2500", "0")
    read_only = "load1"

    async def test_values_are_those_of_this_machine(self) -> None:
        uptime = sources.uptime_s()
        assert uptime is not None
        mapper = self.make()
        await mapper.open({})

        values = await mapper.read()

        assert abs(int(values["uptimeS"]) - uptime) < 5
        assert 0 < float(values["memoryUsedPercent"]) < 100

    async def test_the_report_period_that_is_set_is_the_one_asked_for(self) -> None:
        mapper = self.make()
        await mapper.open({})

        await mapper.write("reportPeriodMs", "250")

        assert isinstance(mapper, PeriodicMapper)
        assert mapper.period_ms() == 250

    async def test_the_label_is_empty_until_somebody_sets_one(self) -> None:
        mapper = self.make()
        await mapper.open({})
        assert "label" not in await mapper.read()

        await mapper.write("label", "boiler-room")

        assert (await mapper.read())["label"] == "boiler-room"

    def test_an_unknown_source_is_named(self) -> None:
        spec = read_device(
            {"metadata": {"name": "d"}, "spec": {"properties": [{"name": "sunshine"}]}},
            None,
        )

        with pytest.raises(BadConfig, match="no source 'sunshine'"):
            HostMapper(MapperContext(spec, ManualClock(), Rng(1)))

"""The gateway as a device: load, memory, disk, network rates, temperature; a report period and a label that can be set."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from devicetwin.mapper import BadConfig, MapperContext, WriteFailed, settings_of
from devicetwin.mappers.host import sources
from devicetwin.mappers.host.settings import DeviceSettings, PropertySettings
from devicetwin.values import INT, BadValue, plain

LABEL, PERIOD = "label", "reportPeriodMs"
DEFAULT_PERIOD_MS = 5000
LEAST_PERIOD_MS, MOST_PERIOD_MS = 100, 86_400_000


class HostMapper:
    """PORT PeriodicMapper over this machine."""

    protocol: ClassVar[str] = "host"

    def __init__(self, context: MapperContext) -> None:
        self._spec = context.spec
        self._clock = context.clock
        self._settings = settings_of(DeviceSettings, self._spec.config, "protocol.configData")
        self._held = {LABEL: "", PERIOD: str(DEFAULT_PERIOD_MS)}
        self._network: tuple[float, int, int] | None = None
        self._measures: dict[str, Callable[[], float | None]] = {
            "load1": lambda: self._load(0),
            "load5": lambda: self._load(1),
            "load15": lambda: self._load(2),
            "memoryUsedPercent": lambda: _used_percent(sources.memory_bytes()),
            "memoryAvailableBytes": lambda: _second(sources.memory_bytes()),
            "diskUsedPercent": lambda: _used_percent(sources.disk_bytes(self._settings.disk)),
            "diskFreeBytes": lambda: _second(sources.disk_bytes(self._settings.disk)),
            "networkReceivedBytesPerS": lambda: self._rates[0],
            "networkSentBytesPerS": lambda: self._rates[1],
            "temperatureC": sources.temperature_c,
            "uptimeS": sources.uptime_s,
        }
        self._rates: tuple[float | None, float | None] = (None, None)
        self._sources = {name: self._source(name) for name in self._spec.properties}

    def _source(self, name: str) -> str:
        where = f"property {name}: visitors.configData"
        source = settings_of(PropertySettings, self._spec.properties[name].visitor, where).source or name
        if source not in self._measures and source not in self._held:
            known = ", ".join([*self._measures, *self._held])
            raise BadConfig(f"{where}: there is no source {source!r}; known are {known}")
        return source

    async def open(self, known: Mapping[str, str]) -> None:
        for name, source in self._sources.items():
            if source in self._held and known.get(name):
                self._held[source] = known[name]
        self._measure_network()

    async def read(self) -> Mapping[str, str]:
        self._measure_network()
        values = {name: self._read_one(name, source) for name, source in self._sources.items()}
        return {name: value for name, value in values.items() if value is not None}

    async def write(self, name: str, value: str) -> None:
        source = self._sources.get(name, "")
        if source not in self._held:
            raise WriteFailed(f"{name} is measured: it cannot be set")
        if source == PERIOD:
            _check_period(value)
        try:
            self._spec.properties[name].check(value)
        except BadValue as error:
            raise WriteFailed(str(error)) from error
        self._held[source] = value

    async def close(self) -> None:
        """Nothing is held open."""

    def period_ms(self) -> int:
        """The report period in force, as set or by default."""
        return int(self._held[PERIOD])

    def _read_one(self, name: str, source: str) -> str | None:
        held = self._held.get(source)
        if held is not None:
            return held or None
        value = self._measures[source]()
        if value is None:
            return None
        return str(int(value)) if self._spec.properties[name].type == INT else plain(round(value, 2))

    def _load(self, which: int) -> float | None:
        found = sources.load()
        return found[which] if found else None

    def _measure_network(self) -> None:
        now_s, found = self._clock.now_s(), sources.network_bytes(self._settings.interface)
        if found is None:
            self._network, self._rates = None, (None, None)
            return
        before = self._network
        if before is not None and now_s > before[0]:
            elapsed_s = now_s - before[0]
            # A counter that went back was reset (interface replaced): no rate is better than a negative one.
            self._rates = (
                max(0.0, (found[0] - before[1]) / elapsed_s),
                max(0.0, (found[1] - before[2]) / elapsed_s),
            )
        self._network = (now_s, *found)


def _check_period(value: str) -> None:
    if not value.isdigit() or not LEAST_PERIOD_MS <= int(value) <= MOST_PERIOD_MS:
        raise WriteFailed(f"a report period is {LEAST_PERIOD_MS} to {MOST_PERIOD_MS} ms, not {value[:32]!r}")


def _used_percent(found: tuple[int, int] | None) -> float | None:
    return 100.0 * (found[0] - found[1]) / found[0] if found and found[0] else None


def _second(found: tuple[int, int] | None) -> float | None:
    return float(found[1]) if found else None


def label_of(devices: Iterable[Mapping[str, Any]], statuses: Iterable[Mapping[str, Any]]) -> str:
    """Return the label that people gave this gateway, from its Device and DeviceStatus objects; empty without one."""
    names = {
        (d["metadata"].get("namespace", ""), d["metadata"]["name"]): _label_property(d)
        for d in devices
        if ((d.get("spec") or {}).get("protocol") or {}).get("protocolName") == HostMapper.protocol
    }
    for status in statuses:
        name = names.get((status["metadata"].get("namespace", ""), status["metadata"]["name"]))
        for twin in (status.get("status") or {}).get("twins", ()):
            if twin["propertyName"] == name and twin.get("reported", {}).get("value"):
                return str(twin["reported"]["value"])
    return ""


def _label_property(device: Mapping[str, Any]) -> str:
    for entry in device["spec"].get("properties") or ():
        config = (entry.get("visitors") or {}).get("configData") or {}
        if config.get("source") == LABEL:
            return str(entry["name"])
    return LABEL

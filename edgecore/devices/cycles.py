"""When the properties of one mapped device are read and reported (pure)."""

from collections.abc import Iterable, Mapping

from devicetwin.model import DeviceSpec

DEFAULT_PERIOD_MS = 1000
LEAST_PERIOD_MS = 10  # a mapper shares its core with everything else
EARLY_RATIO = 0.9  # a reading this close to its cycle is on time: timers are late more often than early


class Cycles:
    """Due times of one device; ``period_ms`` is the mapper's own wish, 0 for none."""

    def __init__(self, spec: DeviceSpec) -> None:
        self._spec = spec
        self._reported_s: dict[str, float] = {}

    def report_ms(self, name: str, period_ms: int) -> int:
        prop = self._spec.properties.get(name)
        asked = (prop.report_cycle_ms or prop.collect_cycle_ms) if prop is not None else 0
        return asked or period_ms or DEFAULT_PERIOD_MS

    def read_every_s(self, period_ms: int) -> float:
        """Return the seconds between two readings: the fastest cycle that any property asks for."""
        asked = [p.collect_cycle_ms or self.report_ms(n, period_ms) for n, p in self._spec.properties.items()]
        return max(LEAST_PERIOD_MS, min(asked, default=period_ms or DEFAULT_PERIOD_MS)) / 1000

    def due(self, values: Mapping[str, str], fresh: Iterable[str], now_s: float, period_ms: int) -> dict[str, str]:
        """Return the values to report now: those whose cycle has passed, and ``fresh`` ones at once."""
        hurried = set(fresh)
        out = {}
        for name, value in values.items():
            last_s = self._reported_s.get(name)
            cycle_s = self.report_ms(name, period_ms) / 1000
            if name in hurried or last_s is None or now_s - last_s >= EARLY_RATIO * cycle_s:
                out[name] = value
                self._reported_s[name] = now_s
        return out

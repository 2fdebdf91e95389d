"""A simulated device: signals with noise, drift and faults; settable properties follow what is desired, with lag."""

import math
import zlib
from collections.abc import Mapping
from typing import ClassVar

from devicetwin.mapper import BadConfig, MapperContext, Unreachable, WriteFailed, settings_of
from devicetwin.mappers.simulated.settings import DeviceSettings, PropertySettings
from devicetwin.model import PropertySpec
from devicetwin.values import BOOLEAN, INT, NUMBERS, BadValue
from proto.kit.backoff import Rng

SPIKE_AMPLITUDES = 10.0


class Signal:
    """One property's value over time. All randomness comes from the device's own source."""

    def __init__(self, prop: PropertySpec, settings: PropertySettings, rng: Rng) -> None:
        self.prop = prop
        self.settings = settings
        self._rng = rng
        self.target: str | None = None  # what was written; the signal then goes there and stays
        self.level = _number(settings.value)
        self.text = settings.value
        self._last = ""

    @property
    def numeric(self) -> bool:
        return self.prop.type in NUMBERS

    def set(self, value: str) -> None:
        self.target = value
        if not self.numeric or not self.settings.lag_s:
            self.text = value
            self.level = _number(value)

    def step(self, elapsed_s: float, age_s: float, others: Mapping[str, float]) -> str | None:
        """Advance and return the reading; None when it is missing."""
        s = self.settings
        if self._rng.random() < s.dropout_ratio:
            return None
        if self._last and self._rng.random() < s.stuck_ratio:
            return self._last
        self._last = self._numeric(elapsed_s, age_s, others) if self.numeric else self._discrete(age_s)
        return self._last

    def _numeric(self, elapsed_s: float, age_s: float, others: Mapping[str, float]) -> str:
        s = self.settings
        value = self._wanted(age_s, others)
        if s.kind == "walk" and self.target is None:
            self.level += self._rng.gauss(0.0, s.amplitude) * math.sqrt(max(elapsed_s, 0.0))
            value = self.level
        elif s.lag_s:
            self.level += (value - self.level) * (1.0 - math.exp(-elapsed_s / s.lag_s))
            value = self.level
        else:
            self.level = value
        if not self.settled():
            value += self._rng.gauss(0.0, s.noise) if s.noise else 0.0
            value += s.drift_per_hour * age_s / 3600.0
            if self._rng.random() < s.spike_ratio:
                value += SPIKE_AMPLITUDES * s.amplitude * (1 if self._rng.random() < 0.5 else -1)
        return self._format(value)

    def settled(self) -> bool:
        """A written value is reported exactly once it is reached: a set point has no noise."""
        if self.target is None:
            return False
        if abs(self.level - _number(self.target)) <= 0.5 * 10.0 ** -self._decimals():
            self.level = _number(self.target)
            return True
        return False

    def _wanted(self, age_s: float, others: Mapping[str, float]) -> float:
        s = self.settings
        if self.target is not None:
            return _number(self.target)
        middle = _number(s.value)
        phase = age_s / s.period_s
        if s.kind == "sine":
            return middle + s.amplitude * math.sin(2 * math.pi * phase)
        if s.kind == "ramp":
            return middle + s.amplitude * (phase % 1.0)
        if s.kind == "follow":
            return others.get(s.follows, middle)
        return self.level if s.kind == "walk" else middle

    def _discrete(self, age_s: float) -> str:
        s = self.settings
        if self.target is not None:
            return self.target
        turn = int(age_s / s.period_s)
        if s.kind == "toggle":
            return "true" if turn % 2 else "false"
        if s.kind == "choice" and s.choices:
            return s.choices[turn % len(s.choices)]
        return s.value or ("false" if self.prop.type == BOOLEAN else "")

    def _decimals(self) -> int:
        return 0 if self.prop.type == INT else self.settings.decimals

    def _format(self, value: float) -> str:
        low, high = self.prop.minimum, self.prop.maximum
        value = value if low is None else max(low, value)
        value = value if high is None else min(high, value)
        return str(round(value)) if self.prop.type == INT else f"{value:.{self._decimals()}f}"


class SimulatedMapper:
    """PORT Mapper over arithmetic."""

    protocol: ClassVar[str] = "simulated"

    def __init__(self, context: MapperContext) -> None:
        self._spec = context.spec
        self._clock = context.clock
        self._settings = settings_of(DeviceSettings, self._spec.config, "protocol.configData")
        seed = self._settings.seed or zlib.crc32(str(self._spec.id).encode())
        self._rng = Rng(seed)  # one for all signals: its state is 2.5 kB
        self._signals: dict[str, Signal] = {}
        for name, prop in self._spec.properties.items():
            where = f"property {name}: visitors.configData"
            settings = settings_of(PropertySettings, prop.visitor, where)
            self._signals[name] = Signal(prop, settings, self._rng)
            if settings.kind == "follow" and settings.follows not in self._spec.properties:
                raise BadConfig(f"{where}: follows {settings.follows!r}, which is no property of this device")
        self._opened_s = self._read_s = self._clock.now_s()
        self._down_until_s = 0.0

    async def open(self, known: Mapping[str, str]) -> None:
        if self._clock.now_s() < self._down_until_s:
            raise Unreachable("the simulated device is in an outage")
        for name, value in known.items():
            signal = self._signals.get(name)
            if signal is None:
                continue
            if not signal.prop.read_only:
                signal.set(value)
            signal.level = _number(value)

    async def read(self) -> Mapping[str, str]:
        now_s = self._clock.now_s()
        elapsed_s = now_s - self._read_s
        self._read_s = now_s
        self._outage(now_s, elapsed_s)
        levels = {name: signal.level for name, signal in self._signals.items()}
        values = {n: s.step(elapsed_s, now_s - self._opened_s, levels) for n, s in self._signals.items()}
        return {name: value for name, value in values.items() if value is not None and value != ""}

    async def write(self, name: str, value: str) -> None:
        signal = self._signals.get(name)
        if signal is None or signal.prop.read_only:
            raise WriteFailed(f"{name} cannot be written")
        try:
            signal.prop.check(value)
        except BadValue as error:
            raise WriteFailed(str(error)) from error
        signal.set(value)

    async def close(self) -> None:
        """Nothing is held."""

    def _outage(self, now_s: float, elapsed_s: float) -> None:
        if now_s < self._down_until_s:
            raise Unreachable("the simulated device is in an outage")
        if self._rng.random() < self._settings.outages_per_hour * elapsed_s / 3600.0:
            self._down_until_s = now_s + self._settings.outage_s
            raise Unreachable(f"the simulated device went out for {self._settings.outage_s:g} s")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

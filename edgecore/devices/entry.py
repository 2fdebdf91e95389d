"""One device of this node in memory: its twin and what the room knows beside it."""

from collections.abc import Mapping

from devicetwin.lifecycle import Around, Condition
from devicetwin.merge import DeviceTwin
from devicetwin.model import DeviceId

CYCLES_MISSED = 3  # report cycles without a report before a device counts as silent
LEAST_SILENCE_S = 3.0  # a fast cycle must not make weather of one late report


class Entry:
    """Everything about one Device object. Conditions are those last written."""

    __slots__ = (
        "conditions",
        "heard_at_s",
        "mapper_error",
        "one_level",
        "silence_s",
        "silent",
        "told_delta_at_s",
        "twin",
        "write_errors",
        "written",
    )

    def __init__(self, twin: DeviceTwin, now_s: float) -> None:
        self.twin = twin
        self.conditions: Mapping[str, Condition] = {}
        self.heard_at_s = now_s  # monotonic instant of the last report; the start counts as one
        self.told_delta_at_s = now_s
        self.silence_s = 0.0  # longer without a report is silence; set from the spec
        self.silent = False
        self.one_level = False  # some client uses the one-level topics of this device
        self.mapper_error = ""
        self.write_errors: dict[str, str] = {}
        self.written = -1  # edge counter of the DeviceStatus last written

    @property
    def id(self) -> DeviceId:
        return self.twin.spec.id

    @property
    def uid(self) -> str:
        return self.twin.spec.uid

    def has_cycle(self) -> bool:
        return any(p.report_cycle_ms for p in self.twin.spec.properties.values())

    def set_silence(self, default_s: float) -> None:
        """Derive how long this device may be silent: three of its slowest report cycles, else ``default_s``."""
        slowest_ms = max((p.report_cycle_ms for p in self.twin.spec.properties.values()), default=0)
        self.silence_s = max(LEAST_SILENCE_S, CYCLES_MISSED * slowest_ms / 1000) if slowest_ms else default_s

    def around(self, now_s: float) -> Around:
        return Around(
            mapper_error=self.mapper_error,
            write_errors=dict(self.write_errors),
            silent_for_s=now_s - self.heard_at_s if self.silent else None,
            has_cycle=self.has_cycle(),
        )

"""Settings of simulated devices: ``spec.protocol.configData`` and each property's ``visitors.configData``."""

from typing import Annotated

import msgspec
from msgspec import Meta

Ratio = Annotated[float, Meta(ge=0, le=1)]


class DeviceSettings(msgspec.Struct, frozen=True, rename="camel"):
    """``spec.protocol.configData``."""

    seed: Annotated[int, Meta(description="the same seed gives the same values; 0: from the device's name")] = 0
    outages_per_hour: Annotated[float, Meta(ge=0, description="how often the device stops answering")] = 0.0
    outage_s: Annotated[float, Meta(gt=0, description="seconds that an outage lasts")] = 10.0


class PropertySettings(msgspec.Struct, frozen=True, rename="camel"):
    """``visitors.configData`` of one property."""

    kind: Annotated[
        str,
        Meta(
            pattern="^(constant|sine|ramp|walk|follow|toggle|choice)$",
            description="constant, sine, ramp, walk, follow (another property), toggle, choice",
        ),
    ] = "constant"
    value: Annotated[str, Meta(description="start value; the middle of a sine")] = ""
    amplitude: Annotated[float, Meta(description="of a sine; the step of a walk; the height of a ramp")] = 1.0
    period_s: Annotated[float, Meta(gt=0, description="seconds of one sine, ramp or toggle")] = 60.0
    noise: Annotated[float, Meta(ge=0, description="standard deviation of noise, in the property's unit")] = 0.0
    drift_per_hour: Annotated[float, Meta(description="slow error that grows, in the property's unit")] = 0.0
    follows: Annotated[str, Meta(description="kind follow: the property whose value this one approaches")] = ""
    lag_s: Annotated[float, Meta(ge=0, description="seconds to cover 63 % of the way to the wanted value")] = 0.0
    decimals: Annotated[int, Meta(ge=0, le=9, description="digits after the point")] = 2
    choices: Annotated[list[str], Meta(description="kind choice: the values, in turn")] = []
    stuck_ratio: Annotated[Ratio, Meta(description="readings that repeat the last value")] = 0.0
    spike_ratio: Annotated[Ratio, Meta(description="readings that jump by ten amplitudes")] = 0.0
    dropout_ratio: Annotated[Ratio, Meta(description="readings that are missing")] = 0.0

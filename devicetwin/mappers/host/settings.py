"""Settings of the host mapper: ``spec.protocol.configData`` and each property's ``visitors.configData``."""

from typing import Annotated

import msgspec
from msgspec import Meta


class DeviceSettings(msgspec.Struct, frozen=True, rename="camel"):
    """``spec.protocol.configData``."""

    disk: Annotated[str, Meta(description="path whose file system is measured")] = "/"
    interface: Annotated[str, Meta(description="network interface; empty: all but loopback")] = ""


class PropertySettings(msgspec.Struct, frozen=True, rename="camel"):
    """``visitors.configData`` of one property."""

    source: Annotated[str, Meta(description="what to measure; empty: the property's own name")] = ""

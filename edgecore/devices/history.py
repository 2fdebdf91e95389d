"""History rows: one accepted report is one message, in the order of acceptance (TWIN-16)."""

from collections.abc import Mapping

import msgspec

from devicetwin.model import DeviceId

KIND = "history"
_encode = msgspec.json.Encoder().encode


def row(device: DeviceId, uid: str, at_ms: int, version: int, values: Mapping[str, str]) -> bytes:
    """``[namespace, name, uid, at_ms, version, {property: value}]``; ``version`` is the edge counter of the report."""
    return _encode((device.namespace, device.name, uid, at_ms, version, values))

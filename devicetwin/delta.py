"""What a device still has to do: expected values that it has not reported (TWIN-8)."""

from collections.abc import Mapping

from devicetwin.merge import Twin
from devicetwin.values import same


def is_pending(twin: Twin) -> bool:
    """Whether this property's expected value is not (yet) the reported one. An empty expected asks for nothing."""
    expected = twin.override if twin.override is not None else twin.desired
    if not expected or twin.deleted_version:
        return False
    reported = twin.reported
    return reported is None or (reported != expected and not same(twin.type, expected, reported))


def delta(twins: Mapping[str, Twin]) -> dict[str, str]:
    """Return property -> expected value for every pending one; empty when the device is in sync."""
    return {name: twin.expected or "" for name, twin in twins.items() if is_pending(twin)}

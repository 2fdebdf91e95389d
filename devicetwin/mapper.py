"""PORT Mapper, and the SDK that people write mappers with: one mapper is one device, as its protocol sees it.

The room (edgecore/devices/mappers.py) opens it, reads it in cycles, writes what is desired, and starts it again with
back-off when it fails. A mapper holds no twin, no version and no clock of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import msgspec

from devicetwin.model import DeviceSpec
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, Terminal

S = TypeVar("S", bound=msgspec.Struct)


class Unreachable(Retryable):
    """The device does not answer now; the mapper is opened again later and the device shows as offline."""

    code = "Unreachable"


class WriteFailed(Retryable):
    """The device did not take a value now; it is tried again with back-off and shows as Pending/WriteFailed."""

    code = "WriteFailed"


class BadConfig(Terminal):
    """The Device's configData cannot work: what, where, what to write instead."""

    code = "BadConfig"


class MapperContext(msgspec.Struct, frozen=True):
    """What a mapper gets by the door."""

    spec: DeviceSpec
    clock: Clock
    rng: Rng
    node: str = ""


class Mapper(Protocol):
    """One device. Calls come one at a time, never two at once; every call is under a time limit."""

    protocol: ClassVar[str]

    async def open(self, known: Mapping[str, str]) -> None:
        """Connect. ``known``: what this device reported last, by property, for devices without a memory of their own.

        Raises Unreachable, BadConfig.
        """
        ...

    async def read(self) -> Mapping[str, str]:
        """Return the values of this moment by property, as strings; one that cannot be read now is left out.

        Raises Unreachable.
        """
        ...

    async def write(self, name: str, value: str) -> None:
        """Set one property; return once the device has taken it (the next ``read`` tells). Raises WriteFailed, Unreachable."""
        ...

    async def close(self) -> None:
        """Let go of the device. Safe to call twice, and after a failed ``open``."""
        ...


@runtime_checkable
class PeriodicMapper(Mapper, Protocol):
    """A mapper that may change how often it is read."""

    def period_ms(self) -> int:
        """Return the period in milliseconds that the device asks for now; 0: as the Device says."""
        ...


MapperFactory = Callable[[MapperContext], Mapper]


def settings_of(kind: type[S], config: Mapping[str, Any], where: str) -> S:
    """Return ``configData`` as the mapper's own settings. Raises BadConfig naming the field."""
    unknown = sorted(set(config) - {f.encode_name for f in msgspec.structs.fields(kind)})
    if unknown:
        names = ", ".join(f.encode_name for f in msgspec.structs.fields(kind))
        raise BadConfig(f"{where}: unknown key {unknown[0]!r}; known are {names}")
    try:
        return msgspec.convert(dict(config), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{where}: {error}") from error

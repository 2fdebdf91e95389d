"""The twin of one device and the only ways it may change. Rules TWIN-n are in README.md.

Values are immutable: a change replaces a ``Twin`` and is described by a ``Change`` (before, after), so that a failed
commit is undone by putting the old ones back, in reverse.
"""

from collections.abc import Iterable, Mapping

import msgspec

from devicetwin.model import DeviceSpec, PropertySpec
from devicetwin.values import (
    DELETED,
    REASON_TYPE,
    STRING,
    WIRE_TYPES,
    BadValue,
    check_charset,
    check_key,
    check_type,
)
from proto.kit.errors import Terminal

BAD_REQUEST, NOT_FOUND, INTERNAL = 400, 404, 500
REASON_BODY = "the request body is wrong"
MAX_TWINS = 1024  # of one device, tombstones included: a client must not fill the disk or outgrow a DeviceStatus
MAX_SHOWN = 128  # characters of a property name that an answer repeats


class Rejected(Terminal):
    """An update that changes nothing; ``code`` and the text go to the client."""

    code = "Rejected"

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Twin(msgspec.Struct, frozen=True, gc=False):
    """One property. Versions: 0 means never. Instants are Unix ms, for people; no decision reads them."""

    type: str = STRING
    optional: bool = True  # may a local client delete it; goes true to false only
    declared: bool = False  # the Device or its model names it (TWIN-6)
    desired: str | None = None  # the cloud's
    desired_version: int = 0  # the generation in which ``desired`` last changed (TWIN-3)
    desired_at_ms: int = 0
    override: str | None = None  # a local app's own expected, in force until a newer generation (TWIN-5)
    override_version: int = 0
    override_at_ms: int = 0
    reported: str | None = None  # the edge's
    reported_version: int = 0  # the edge counter at the report (TWIN-4)
    reported_at_ms: int = 0
    deleted_version: int = 0  # above 0: a tombstone made at this edge counter (TWIN-6)

    @property
    def expected(self) -> str | None:
        """What the device should take: the override while it is in force, else the cloud's desired value."""
        return self.override if self.override is not None else self.desired

    @property
    def live(self) -> bool:
        return self.deleted_version == 0

    @property
    def expected_version(self) -> int:
        return self.override_version if self.override is not None else self.desired_version

    @property
    def expected_at_ms(self) -> int:
        return self.override_at_ms if self.override is not None else self.desired_at_ms


class Change(msgspec.Struct, frozen=True, gc=False):
    """One property before and after; ``before`` None: it had no row."""

    name: str
    before: Twin | None
    after: Twin
    expected_set: bool = False  # this update named ``expected``
    reported_set: bool = False  # this update named ``actual``


class Wish(msgspec.Struct, frozen=True, gc=False):
    """What a local client says about one property; None members say nothing."""

    expected: str | None = None
    reported: str | None = None
    reported_at_ms: int = 0  # 0: now
    optional: bool | None = None
    type: str = ""


class DeviceTwin:
    """All twins of one Device object (one uid), and the edge counter that versions them (TWIN-2)."""

    __slots__ = ("counter", "generation", "last_online_ms", "spec", "state", "twins")

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        self.generation = 0  # the newest applied
        self.counter = 0  # grows by one with every accepted change, never goes back
        self.state = ""
        self.last_online_ms = 0
        self.twins: dict[str, Twin] = {}

    def undo(self, changes: Iterable[Change]) -> None:
        """Put back what ``changes`` replaced; the counter stays, so no version is used twice (TWIN-2)."""
        for change in reversed(list(changes)):
            if change.before is None:
                self.twins.pop(change.name, None)
            else:
                self.twins[change.name] = change.before

    def live(self) -> dict[str, Twin]:
        """Return the twins that are no tombstones."""
        return {name: twin for name, twin in self.twins.items() if twin.live}


def apply_spec(device: DeviceTwin, spec: DeviceSpec, now_ms: int) -> list[Change]:
    """Take the cloud's half from ``spec``; an older generation changes nothing, the same one again only re-reads it.

    Returns the twins that changed. The order and number of generations seen do not matter, only the newest (TWIN-3).
    """
    if spec.generation < device.generation:
        return []
    newer = spec.generation > device.generation
    changes = []
    version = device.counter + 1
    for name, prop in spec.properties.items():
        before = device.twins.get(name)
        if prop.desired is None and (before is None or not before.live):
            continue  # nothing asked, nothing reported: no twin yet, or a tombstone that stays one
        after = _from_cloud(before, prop, spec.generation, now_ms, newer=newer)
        if after != before:
            changes.append(Change(name, before, after))
    for name, before in device.twins.items():
        if name in spec.properties or not before.live:
            continue
        if before.declared:
            changes.append(Change(name, before, _tombstone(before, version, desired_version=spec.generation)))
        elif newer and before.override is not None:
            changes.append(Change(name, before, _without_override(before)))
    for change in changes:
        device.twins[change.name] = change.after
    device.spec = spec
    device.generation = spec.generation
    if changes:
        device.counter = version
    return changes


def update(device: DeviceTwin, wishes: Mapping[str, Wish | None], now_ms: int) -> list[Change]:
    """Take what a local client or mapper says: all of it or nothing (TWIN-7). None deletes (TWIN-6).

    Returns the changed twins in the client's order; setting the same value again is a change. Raises Rejected.
    """
    version = device.counter + 1
    changes = []
    properties = device.spec.properties
    name = ""
    try:
        for name, wish in wishes.items():
            before = device.twins.get(name)
            prop = properties.get(name)
            if before is None and prop is None:
                check_key(name)
            if wish is None or wish.type == DELETED:
                change = _delete(name, before, version)
            else:
                change = _merge(name, before, prop, wish, version, now_ms)
            if change is not None:
                changes.append(change)
    except BadValue as error:
        text = str(error)
        raise Rejected(
            BAD_REQUEST, text if name in text.split() else f"{text} (property {name[:MAX_SHOWN]})"
        ) from error
    new = sum(change.before is None for change in changes)
    if new and len(device.twins) + new > MAX_TWINS:
        raise Rejected(BAD_REQUEST, f"the device has {len(device.twins)} twins of at most {MAX_TWINS}")
    for change in changes:
        device.twins[change.name] = change.after
    if changes:
        device.counter = version
    return changes


def _from_cloud(before: Twin | None, prop: PropertySpec, generation: int, now_ms: int, *, newer: bool) -> Twin:
    twin = before or Twin()
    if not twin.live:
        twin = Twin(desired_version=twin.desired_version, reported_version=twin.reported_version)
    fields: dict[str, object] = {} if twin.declared else {"declared": True}
    if twin.type != prop.type:
        fields["type"] = prop.type
    if twin.desired != prop.desired:
        fields |= {"desired": prop.desired, "desired_version": generation, "desired_at_ms": now_ms}
    if newer and twin.override is not None:
        fields |= {"override": None, "override_version": 0, "override_at_ms": 0}
    return msgspec.structs.replace(twin, **fields) if fields else twin


def _without_override(twin: Twin) -> Twin:
    return msgspec.structs.replace(twin, override=None, override_version=0, override_at_ms=0)


def _tombstone(twin: Twin, version: int, *, desired_version: int = 0) -> Twin:
    return Twin(
        type=twin.type,
        optional=twin.optional,
        declared=twin.declared and not desired_version,
        desired_version=desired_version or twin.desired_version,
        reported_version=twin.reported_version,
        deleted_version=version,
    )


def _delete(name: str, before: Twin | None, version: int) -> Change | None:
    if before is None or (not before.live):
        raise Rejected(BAD_REQUEST, REASON_BODY)
    if not before.optional:
        raise Rejected(BAD_REQUEST, f"{REASON_BODY}: twin {name} is not optional and cannot be deleted")
    if before.desired is None:
        return Change(name, before, _tombstone(before, version))
    # The cloud still asks for it: only the edge's own half can go.
    kept = msgspec.structs.replace(_without_override(before), reported=None, reported_version=version, reported_at_ms=0)
    return Change(name, before, kept)


def _merge(
    name: str, before: Twin | None, prop: PropertySpec | None, wish: Wish, version: int, now_ms: int
) -> Change | None:
    if wish.type not in WIRE_TYPES:
        raise BadValue(REASON_TYPE)
    twin = before or Twin()
    if not twin.live:
        twin = Twin(desired_version=twin.desired_version, reported_version=twin.reported_version)
    type_name = prop.type if prop is not None else _type(before, wish)
    optional = twin.optional and wish.optional is not False
    desired, override, override_version, override_at_ms = (
        twin.desired,
        twin.override,
        twin.override_version,
        twin.override_at_ms,
    )
    if wish.expected is not None:
        _check_expected(name, prop, type_name, wish.expected)
        override = wish.expected or None
        override_version, override_at_ms = (version, now_ms) if override else (0, 0)
    reported, reported_version, reported_at_ms = twin.reported, twin.reported_version, twin.reported_at_ms
    if wish.reported is not None:
        _check_reported(prop, type_name, twin, wish.reported)
        reported, reported_version, reported_at_ms = wish.reported, version, wish.reported_at_ms or now_ms
    elif wish.expected is None and before is not None and before.live and optional == before.optional:
        return None  # names nothing that could change
    after = Twin(
        type_name,
        optional,
        prop is not None,
        desired,
        twin.desired_version,
        twin.desired_at_ms,
        override,
        override_version,
        override_at_ms,
        reported,
        reported_version,
        reported_at_ms,
    )
    return Change(name, before, after, wish.expected is not None, wish.reported is not None)


def _type(before: Twin | None, wish: Wish) -> str:
    """A live twin keeps its type (TWIN-12); a new or revived one takes the client's."""
    if before is not None and before.live:
        return before.type
    return wish.type or STRING


def _check_expected(name: str, prop: PropertySpec | None, type_name: str, value: str) -> None:
    if value == "":
        return  # takes the override back (TWIN-5)
    check_charset(value)
    if prop is None:
        check_type(type_name, value)
        return
    if prop.read_only:
        raise BadValue(f"property {name} is ReadOnly in the device model: it takes no expected value")
    prop.check(value)


def _check_reported(prop: PropertySpec | None, type_name: str, twin: Twin, value: str) -> None:
    if value != twin.expected:  # a device may always report what it was asked for, whatever its characters
        check_charset(value)
    if prop is not None:
        prop.check(value)
    else:
        check_type(type_name, value)

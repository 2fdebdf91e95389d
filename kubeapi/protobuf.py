r"""Request bodies in Kubernetes' protobuf, as kubectl from 1.32 on and Go programs send them, to JSON values.

    k8s\0 | runtime.Unknown { typeMeta=1 {apiVersion=1 kind=2}, raw=2, contentEncoding=3, contentType=4 }

``protobuf.json.xz`` says which field is which; ``kubeapi.protobuf_source`` makes it. Unknown fields are skipped, as the
Go decoder does. Go writes every plain field, so a zero is kept only where it means more than an absent value.
"""

import base64
import lzma
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec

from kubeapi.errors import ApiError, bad_request, too_large
from proto.kit.clock import rfc3339, rfc3339_micro

MAGIC = b"k8s\0"
MAX_BODY_BYTES = 3 << 20
MAX_DEPTH = 64
MAX_VALUES = 200_000  # of one body; two bytes on the wire can become a hundred in memory
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_NS = 1_000_000_000

Json = dict[str, Any]


class _Field(NamedTuple):
    name: str
    kind: str
    repeated: bool
    map: bool
    keep: bool  # a zero means more than an absent value
    inline: bool  # its fields are the parent's in JSON


class _Malformed(Exception):
    pass


@cache
def _table() -> tuple[dict[str, str], dict[str, dict[int, _Field]]]:
    raw = msgspec.json.decode(lzma.decompress(files("kubeapi").joinpath("protobuf.json.xz").read_bytes()))
    messages = {
        message: {
            int(number): _Field(name, kind, "r" in flags, "m" in flags, "k" in flags, "n" in flags)
            for number, (name, kind, flags) in fields.items()
        }
        for message, fields in raw["messages"].items()
    }
    return raw["kinds"], messages


def known_kinds() -> dict[str, str]:
    """Return ``apiVersion/kind`` -> message of every body that can be read."""
    return dict(_table()[0])


def decode(body: bytes) -> Json:
    """Return the object in ``body``. Raises 400, 413, 415."""
    if len(body) > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES)
    if not body.startswith(MAGIC):
        raise bad_request("the body is not Kubernetes protobuf: it does not begin with k8s\\0")
    try:
        return _unknown(body[len(MAGIC) :], _Decoder(), 0)
    except (_Malformed, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise bad_request(f"the body is not valid protobuf: {error}") from error


def _unknown(data: bytes, decoder: "_Decoder", depth: int) -> Json:
    outer = {number: value for number, _, value in _fields(memoryview(data))}
    meta, raw = outer.get(1, b""), outer.get(2, b"")
    if not isinstance(meta, memoryview | bytes) or not isinstance(raw, memoryview | bytes) or outer.get(3):
        raise _Malformed("it is no runtime.Unknown")
    names = {
        number: bytes(value).decode() for number, _, value in _fields(memoryview(meta)) if not isinstance(value, int)
    }
    api_version, kind = names.get(1, ""), names.get(2, "")
    kinds, _ = _table()
    message = kinds.get(f"{api_version}/{kind}") or (kinds.get("v1/DeleteOptions") if kind == "DeleteOptions" else None)
    if message is None:
        text = f"{kind[:80]} of {api_version[:80]} is not read as protobuf here: send it as application/json"
        raise ApiError(415, "UnsupportedMediaType", text)
    return {"apiVersion": api_version, "kind": kind, **decoder.message(message, memoryview(raw), depth)}


class _Decoder:
    """One body; counts what it makes."""

    def __init__(self) -> None:
        self._values = 0

    def message(self, name: str, data: memoryview, depth: int) -> Json:
        """Return the JSON object of a message."""
        if depth > MAX_DEPTH:
            raise _Malformed(f"it is nested deeper than {MAX_DEPTH} levels")
        known = _table()[1][name]
        out: Json = {}
        for number, wire, value in _fields(data):
            field = known.get(number)
            if field is not None:
                self._count()
                self._put(out, field, wire, value, depth)
        return out

    def _put(self, out: Json, field: _Field, wire: int, value: int | memoryview, depth: int) -> None:
        if field.map:
            key, held = self._entry(field.kind, value, depth)
            out.setdefault(field.name, {})[key] = held
        elif field.repeated:
            if wire == BYTES and field.kind in ("i", "B") and isinstance(value, memoryview):
                out.setdefault(field.name, []).extend(self._packed(field.kind, value))
            else:
                out.setdefault(field.name, []).append(self._value(field.kind, value, depth))
        else:
            found = self._value(field.kind, value, depth)
            if field.inline:
                out.update(found)
            elif found is not None and (field.keep or found not in ("", 0) or isinstance(found, float)):
                out[field.name] = found

    def _entry(self, kind: str, data: int | memoryview, depth: int) -> tuple[str, Any]:
        key, held = "", memoryview(b"")
        for number, _, value in _fields(_bytes(data)):
            if number == 1:
                key = bytes(_bytes(value)).decode()
            elif number == 2:
                held = _bytes(value)
        return key, self._value(kind, held, depth)

    def _value(self, kind: str, value: int | memoryview, depth: int) -> Any:
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        if kind in RAW:
            return self._raw(_bytes(value), depth)
        special = SPECIAL.get(kind)
        if special is not None:
            return special(_bytes(value))
        return self.message(kind, _bytes(value), depth + 1)

    def _raw(self, data: memoryview, depth: int) -> Any:
        """RawExtension, FieldsV1: JSON inside, or another Kubernetes protobuf."""
        raw = next((bytes(_bytes(value)) for number, _, value in _fields(data) if number == 1), b"")
        if not raw:
            return None
        if raw.startswith(MAGIC):
            return _unknown(raw[len(MAGIC) :], self, depth + 1)
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _Malformed(f"a raw extension is not JSON: {error}") from error

    def _packed(self, kind: str, data: memoryview) -> Iterator[Any]:
        at = 0
        while at < len(data):
            value, at = _varint(data, at)
            self._count()
            yield _SCALARS[kind](value)

    def _count(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Malformed(f"it has more than {MAX_VALUES} values")


# Wire


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (number, wire type, value) of each field."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire == BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            value, at = data[at : at + size], at + size
        else:
            raise _Malformed(f"wire type {wire} is unknown")
        if at > end or not number:
            raise _Malformed("it is cut short")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Malformed("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Malformed("a number stands where bytes belong")
    return value


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _Malformed("bytes stand where a number belongs")
    return value - (1 << 64) if value >> 63 else value


_SCALARS: dict[str, Callable[[int | memoryview], Any]] = {
    "s": lambda value: bytes(_bytes(value)).decode(),
    "b": lambda value: base64.b64encode(_bytes(value)).decode(),
    "i": _signed,
    "B": lambda value: bool(_signed(value)),
    "d": lambda value: struct.unpack("<d", _bytes(value))[0],
}


# Messages that JSON writes in another way


def _numbers(data: memoryview) -> dict[int, int]:
    return {number: _signed(value) for number, _, value in _fields(data) if isinstance(value, int)}


def _texts(data: memoryview, number: int) -> list[str]:
    return [bytes(_bytes(value)).decode() for found, _, value in _fields(data) if found == number]


def _moment(data: memoryview) -> datetime | None:
    found = _numbers(data)
    if not found:
        return None
    return EPOCH + timedelta(seconds=found.get(1, 0), microseconds=found.get(2, 0) // 1000)


def _time(data: memoryview) -> str | None:
    moment = _moment(data)
    return None if moment is None else rfc3339(moment)


def _micro_time(data: memoryview) -> str | None:
    moment = _moment(data)
    return None if moment is None else rfc3339_micro(moment)


def _quantity(data: memoryview) -> str:
    return next(iter(_texts(data, 1)), "") or "0"


def _int_or_string(data: memoryview) -> int | str:
    found = _numbers(data)
    return next(iter(_texts(data, 3)), "") if found.get(1) == 1 else found.get(2, 0)


def _duration(data: memoryview) -> str:
    """As Go prints a duration: ``1h0m5s``, with fractions of a second."""
    left_ns = _numbers(data).get(1, 0)
    sign, left_ns = ("-", -left_ns) if left_ns < 0 else ("", left_ns)
    seconds, fraction_ns = divmod(left_ns, SECOND_NS)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f".{fraction_ns:09d}".rstrip("0") if fraction_ns else ""
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{seconds}{tail}s"


def _items(data: memoryview) -> list[str]:
    return _texts(data, 1)


_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
RAW = frozenset({_META + "FieldsV1", "k8s.io.apimachinery.pkg.runtime.RawExtension"})
SPECIAL: dict[str, Callable[[memoryview], Any]] = {
    _META + "Time": _time,
    _META + "MicroTime": _micro_time,
    _META + "Duration": _duration,
    _META + "Verbs": _items,
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _quantity,
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    "k8s.io.api.authentication.v1.ExtraValue": _items,
    "k8s.io.api.authorization.v1.ExtraValue": _items,
    "k8s.io.api.certificates.v1.ExtraValue": _items,
}

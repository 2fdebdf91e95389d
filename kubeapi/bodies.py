"""Bytes to JSON values and back, bounded: size, depth, duplicate fields, YAML without aliases that explode."""

import json
from typing import Any

import msgspec

from kubeapi.errors import bad_request, too_large

MAX_OBJECT_BYTES = 1_500_000  # what etcd-backed clusters accept, about
MAX_DEPTH = 100
MAX_DUPLICATES = 20  # paths reported; more help nobody

_decoder = msgspec.json.Decoder()


def decode_json(raw: bytes) -> Any:
    """Parse JSON. Raises 400 when it is malformed or nested deeper than 100, 413 when it is too large."""
    if len(raw) > MAX_OBJECT_BYTES:
        raise too_large(MAX_OBJECT_BYTES)
    try:
        value = _decoder.decode(raw)
    except RecursionError as error:
        raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from error
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        check_depth(value)
    return value


def decode_yaml(raw: bytes) -> Any:
    """Parse one YAML document as JSON. Raises 400, 413."""
    if len(raw) > MAX_OBJECT_BYTES:
        raise too_large(MAX_OBJECT_BYTES)
    import yaml  # noqa: PLC0415  the edge starts without it

    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(raw, Loader=safe)):
            raise bad_request("YAML aliases are not accepted")
        value = safe(raw).get_single_data()
        # timestamps and other YAML types become their JSON text
        return decode_json(json.dumps(value, default=str, ensure_ascii=False).encode())
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise bad_request(f"the body is not valid YAML: {' '.join(str(error).split())[:200]}") from error


def check_depth(value: Any) -> None:
    """Raise 400 when ``value`` is nested deeper than 100."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for at in level
            for child in (at.values() if isinstance(at, dict) else at if isinstance(at, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels")


def duplicate_fields(raw: bytes) -> tuple[str, ...]:
    """Return the paths of fields that a JSON body names twice; only a Strict or Warn write asks."""
    try:
        if (
            msgspec.json.encode(_decoder.decode(raw)) == raw
        ):  # nothing was swallowed: the usual case, at a tenth of the price
            return ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    marks: list[Any] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            seen: set[str] = set()
            twice = [k for k, _ in items if k in seen or seen.add(k)]  # type: ignore[func-returns-value]
            marks.append((out, sorted(set(twice))))
        return out

    try:
        root = json.loads(raw, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return ()
    if not marks:
        return ()
    by_id = {id(at): names for at, names in marks}
    out: list[str] = []
    _find(root, "", by_id, out)
    return tuple(out[:MAX_DUPLICATES])


def _find(at: Any, path: str, by_id: dict[int, list[str]], out: list[str]) -> None:
    if isinstance(at, dict):
        prefix = f"{path}." if path else ""
        out += [prefix + name for name in by_id.get(id(at), ())]
        for key, value in at.items():
            _find(value, prefix + key, by_id, out)
    elif isinstance(at, list):
        for i, value in enumerate(at):
            _find(value, f"{path}[{i}]", by_id, out)


def copy(value: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of a JSON object. Raises 400 for what is no JSON, 413 when it is too large."""
    try:
        raw = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise bad_request(f"the object is not JSON: {error}") from error
    if len(raw) > MAX_OBJECT_BYTES:
        raise too_large(MAX_OBJECT_BYTES)
    out: dict[str, Any] = _decoder.decode(raw)
    return out

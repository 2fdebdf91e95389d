"""JSON patch, RFC 6902, on JSON pointers, RFC 6901."""

from collections.abc import Callable, Sequence
from typing import Any

from kubeapi.errors import ApiError, bad_request

MAX_OPERATIONS = 10_000


def _refuse(index: int, text: str) -> ApiError:
    return ApiError(422, "Invalid", f"the JSON patch cannot be applied: operation {index}: {text}")


def _pointer(index: int, op: dict[str, Any], key: str) -> list[str]:
    text = op.get(key)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise bad_request(f'JSON patch operation {index}: "{key}" must be a JSON pointer such as /spec/replicas')
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(index: int, part: str, length: int, *, end: bool) -> int:
    """Read an array index below ``length`` (``end``: or just after it)."""
    if end and part == "-":
        return length
    if not part.isascii() or not part.isdigit() or (part != "0" and part.startswith("0")):
        raise _refuse(index, f'"{part}" is not an array index')
    number = int(part) if len(part) < 10 else length + 1
    if number > length - (not end):
        raise _refuse(index, f"array index {part} is out of bounds ({length} items)")
    return number


def _child(index: int, at: Any, part: str) -> Any:
    if isinstance(at, dict):
        if part not in at:
            raise _refuse(index, f'no field "{part}" on the way')
        return at[part]
    if isinstance(at, list):
        return at[_index(index, part, len(at), end=False)]
    raise _refuse(index, f'"{part}" is looked for inside a value that is neither object nor array')


def _get(index: int, doc: Any, path: Sequence[str]) -> Any:
    for part in path:
        doc = _child(index, doc, part)
    return doc


def _edit(index: int, doc: Any, path: Sequence[str], change: Callable[[Any, str], None]) -> Any:
    """Return ``doc`` with ``change(container, last part)`` made to copies along the path."""
    if not path:
        raise _refuse(index, "the whole document cannot be removed")
    root = at = _copy(doc)
    for part in path[:-1]:
        child = _copy(_child(index, at, part))
        if isinstance(at, dict):
            at[part] = child
        else:
            at[int(part)] = child
        at = child
    change(at, path[-1])
    return root


def _copy(at: Any) -> Any:
    if isinstance(at, dict):
        return dict(at)
    return list(at) if isinstance(at, list) else at


def _add(index: int, doc: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value

    def change(at: Any, part: str) -> None:
        if isinstance(at, dict):
            at[part] = value
        elif isinstance(at, list):
            at.insert(_index(index, part, len(at), end=True), value)
        else:
            raise _refuse(index, f'"{part}" cannot be added to a value that is neither object nor array')

    return _edit(index, doc, path, change)


def _remove(index: int, doc: Any, path: Sequence[str]) -> Any:
    def change(at: Any, part: str) -> None:
        _child(index, at, part)
        del at[part if isinstance(at, dict) else int(part)]

    return _edit(index, doc, path, change)


def _replace(index: int, doc: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value

    def change(at: Any, part: str) -> None:
        _child(index, at, part)
        at[part if isinstance(at, dict) else int(part)] = value

    return _edit(index, doc, path, change)


def _apply_one(index: int, doc: Any, op: dict[str, Any]) -> Any:
    kind, path = op.get("op"), _pointer(index, op, "path")
    if kind in ("add", "replace", "test") and "value" not in op:
        raise bad_request(f'JSON patch operation {index} ({kind}) has no "value"')
    if kind == "add":
        return _add(index, doc, path, op["value"])
    if kind == "remove":
        return _remove(index, doc, path)
    if kind == "replace":
        return _replace(index, doc, path, op["value"])
    if kind == "test":
        if not same(_get(index, doc, path), op["value"]):
            raise _refuse(index, f"test failed: {op['path']} has another value")
        return doc
    if kind in ("move", "copy"):
        source = _pointer(index, op, "from")
        value = _get(index, doc, source)
        if kind == "move":
            if path[: len(source)] == source and len(path) > len(source):
                raise _refuse(index, "a value cannot be moved into itself")
            doc = _remove(index, doc, source)
        return _add(index, doc, path, value)
    raise bad_request(
        f'JSON patch operation {index}: unknown op "{kind}"; allowed: add, remove, replace, move, copy, test'
    )


def same(a: Any, b: Any) -> bool:
    """JSON equality: unlike Python's, ``1`` is not ``true``."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def json_patch(doc: Any, operations: Any) -> Any:
    """Return ``doc`` with the operations applied in order, all or none; ``doc`` is unchanged. Raises 400, 422."""
    if not isinstance(operations, list) or not all(isinstance(op, dict) for op in operations):
        raise bad_request("a JSON patch is an array of operations, each an object with op, path and value")
    if len(operations) > MAX_OPERATIONS:
        raise ApiError(413, "RequestEntityTooLarge", f"a JSON patch may have at most {MAX_OPERATIONS} operations")
    for index, op in enumerate(operations):
        doc = _apply_one(index, doc, op)
    return doc

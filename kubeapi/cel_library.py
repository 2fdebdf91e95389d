"""Functions that Kubernetes adds to CEL, for the interpreter that we use. Receivers come as the first argument.

Not here, because they could take for ever or need another syntax: ``find`` and ``findAll``, ``.?``, ``cel.bind``, ``sets.*``,
``add`` and ``sub`` of quantities.
"""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from kubeapi.quantities import BadQuantity, milli

BUILT_IN = frozenset(
    {
        "size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bool", "bytes", "type",
        "dyn", "timestamp", "duration", "getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate",
        "getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds", "hasValue", "value", "orValue", "or",
        "all", "exists", "exists_one", "map", "filter", "has", "max", "min",
    }
)  # fmt: skip


def _index_of(where: Any, what: Any, start: int = 0) -> int:
    if isinstance(where, str):
        return where.find(what, start)
    return next((i for i, item in enumerate(where) if item == what), -1)


def _last_index_of(where: Any, what: Any) -> int:
    if isinstance(where, str):
        return where.rfind(what)
    return next((len(where) - 1 - i for i, item in enumerate(reversed(where)) if item == what), -1)


def _char_at(text: str, at: int) -> str:
    if not 0 <= at <= len(text):
        raise ValueError(f"index out of range: {at}")
    return text[at : at + 1]


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    if len(text) * max(1, len(new)) > MAX_TEXT:
        raise ValueError("the text would become too long")
    return text.replace(old, new, limit)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit in (0, 1):
        return [text] if limit else []
    if not separator:
        parts = list(text)
        return parts if limit < 0 or len(parts) <= limit else [*parts[: limit - 1], "".join(parts[limit - 1 :])]
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _join(items: list[str], separator: str = "") -> str:
    return separator.join(items)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"index out of range: {start}, {stop}")
    return text[start:stop]


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if not 0 <= start <= end <= len(items):
        raise ValueError(f"index out of range: {start}, {end}")
    return items[start:end]


def _holds(test: Callable[[str], Any], text: str) -> bool:
    try:
        test(text)
    except (ValueError, TypeError):
        return False
    return True


def _url(text: str) -> dict[str, str]:
    found = _absolute(text)
    host = f"[{found.hostname}]" if ":" in (found.hostname or "") else found.hostname or ""
    return {
        "scheme": found.scheme,
        "host": host + (f":{found.port}" if found.port is not None else ""),
        "hostname": found.hostname or "",
        "port": str(found.port) if found.port is not None else "",
        "path": quote(found.path, safe="/%:@!$&'()*+,;=-._~"),
    }


def _absolute(text: str) -> SplitResult:
    found = urlsplit(text)
    if not (found.scheme and (found.netloc or found.path.startswith("/"))) and not text.startswith("/"):
        raise ValueError(f"{text} is no absolute URL")
    _ = found.port  # raises when it is none
    return found


def _quantity(text: str) -> int:
    try:
        return milli(text)
    except BadQuantity as error:
        raise ValueError(str(error)) from error


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


MAX_TEXT = 1 << 20
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "charAt": _char_at,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "lowerAscii": lambda text: "".join(c.lower() if c.isascii() else c for c in text),
    "upperAscii": lambda text: "".join(c.upper() if c.isascii() else c for c in text),
    "replace": _replace,
    "split": _split,
    "join": _join,
    "substring": _substring,
    "trim": str.strip,
    "reverse": lambda value: value[::-1],
    "slice": _slice,
    "isSorted": lambda items: all(a <= b for a, b in pairwise(items)),
    "sum": sum,
    "min": lambda *items: min(items[0] if len(items) == 1 and isinstance(items[0], list) else items),
    "max": lambda *items: max(items[0] if len(items) == 1 and isinstance(items[0], list) else items),
    "isURL": lambda text: _holds(_absolute, text),
    "url": _url,
    "getScheme": lambda url: url["scheme"],
    "getHost": lambda url: url["host"],
    "getHostname": lambda url: url["hostname"],
    "getPort": lambda url: url["port"],
    "getEscapedPath": lambda url: url["path"],
    "isIP": lambda text: _holds(ip_address, text),
    "isCIDR": lambda text: "/" in text and _holds(lambda t: ip_network(t, strict=False), text),
    # a quantity is its thousandths: equal ones are equal
    "isQuantity": lambda text: _holds(_quantity, text),
    "quantity": _quantity,
    "isGreaterThan": lambda one, other: one > other,
    "isLessThan": lambda one, other: one < other,
    "compareTo": lambda one, other: _sign(one - other),
    "asInteger": lambda number: number // 1000,
    "isInteger": lambda number: number % 1000 == 0,
    "asApproximateFloat": lambda number: number / 1000,
    "sign": _sign,
}

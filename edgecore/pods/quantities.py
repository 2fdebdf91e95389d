"""Kubernetes quantities (``100m``, ``64Mi``, ``1e3``) as exact integers of billionths (pure)."""

import re
from typing import Any

NANO = 10**9
MAX_DIGITS = 40
_FORM = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>\d*)(?:\.(?P<part>\d*))?(?P<unit>[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,2}|)"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def nanos(value: Any) -> int:
    """Return billionths, rounded up. Raises ValueError for what is no quantity."""
    text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    found = _FORM.fullmatch(text)
    if found is None or len(text) > MAX_DIGITS or not (found["whole"] or found["part"]):
        raise ValueError(f"{value!r} is no quantity")
    part, unit = found["part"] or "", found["unit"]
    digits = int((found["whole"] or "0") + part)
    if unit in _BINARY:
        size = _up(digits * NANO << _BINARY[unit], 10 ** len(part))
    else:
        power = (_DECIMAL[unit] if unit in _DECIMAL else int(unit[1:])) + 9 - len(part)
        size = digits * 10**power if power >= 0 else _up(digits, 10**-power)
    return -size if found["sign"] == "-" else size


def whole(value: Any) -> int:
    """Return the quantity in ones, rounded up. Raises ValueError."""
    return _up(nanos(value), NANO)


def milli(value: Any) -> int:
    """Return the quantity in thousandths, rounded up. Raises ValueError."""
    return _up(nanos(value), NANO // 1000)


def divided(value: Any, divisor: Any) -> int:
    """Return how often ``divisor`` goes into ``value``, rounded up (Kubernetes' resourceFieldRef). Raises ValueError."""
    by = nanos(divisor) or NANO
    return _up(nanos(value), by)


def _up(number: int, by: int) -> int:
    return -(-number // by)

"""Kubernetes quantities: ``500m``, ``1.5Gi``, ``2e3``. Read exactly, compared as integers, written in canonical form."""

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

_FORM = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?P<suffix>[eE][+-]?\d+|[KMGTPE]i|[numkMGTPE]?)")
BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
DECIMAL = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
MAX_TEXT = 64  # characters; nobody means more, and exponents may not make a huge number
NANO = Decimal("1e-9")
LARGEST = Decimal(2**63 - 1)


class BadQuantity(ValueError):
    """Not a quantity."""


@lru_cache(maxsize=8192)
def amount(text: str) -> Decimal:
    """Return the quantity's value, rounded up to nano and capped at 2⁶³-1. Raises BadQuantity."""
    found = _FORM.fullmatch(text) if len(text) <= MAX_TEXT else None
    if found is None:
        raise BadQuantity(text[:MAX_TEXT])
    number, suffix = Decimal(found["number"]), str(found["suffix"])
    value: Decimal
    if suffix in BINARY:
        value = number * Decimal(1024 ** BINARY[suffix])
    elif suffix in DECIMAL:
        value = number.scaleb(3 * DECIMAL[suffix])
    else:
        exponent = int(suffix[1:])
        if abs(exponent) > 30:
            raise BadQuantity(text)
        value = number.scaleb(exponent)
    if abs(value) >= LARGEST:
        return LARGEST.copy_sign(value)
    return value.quantize(NANO, ROUND_CEILING)


def of(value: Any) -> Decimal:
    """Return the value of a JSON quantity (text or number). Raises BadQuantity."""
    if isinstance(value, str):
        return amount(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadQuantity(str(value)[:MAX_TEXT])
    return amount(str(value))


def milli(value: Any) -> int:
    """Return thousandths, rounded up (CPU). Raises BadQuantity."""
    return int((of(value) * 1000).to_integral_value(ROUND_CEILING))


def units(value: Any) -> int:
    """Return whole units, rounded up (bytes, counts). Raises BadQuantity."""
    return int(of(value).to_integral_value(ROUND_CEILING))


def canonical(value: Any) -> Any:
    """Return the quantity as an API server writes it; what is no quantity comes back unchanged."""
    try:
        exact = of(value)
    except BadQuantity:
        return value
    text = str(value)
    if exact == 0:
        return "0"
    suffix = text.lstrip("+-0123456789.")
    if suffix in BINARY and abs(exact) >= 1024 and exact == exact.to_integral_value():
        return _binary(int(exact))
    if suffix[:1] in ("e", "E") and suffix != "E":
        return _scaled(exact, lambda power: f"e{power}" if power else "")
    names = {power * 3: name for name, power in DECIMAL.items()}
    return _scaled(exact, lambda power: names[power])


def _binary(exact: int) -> str:
    power = 0
    while exact % 1024 == 0 and power < 6:
        exact //= 1024
        power += 1
    return f"{exact}{'' if not power else list(BINARY)[power - 1]}"


def _scaled(exact: Decimal, suffix: Any) -> str:
    power = 18
    while power > -9 and exact.scaleb(-power) != exact.scaleb(-power).to_integral_value():
        power -= 3
    return f"{int(exact.scaleb(-power))}{suffix(power)}"


def written(value: int, *, thousandths: bool = False) -> str:
    """Return an integer (or a number of thousandths) as a quantity."""
    if thousandths and value % 1000:
        return f"{value}m"
    return str(value // 1000 if thousandths else value)

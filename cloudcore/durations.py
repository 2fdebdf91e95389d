"""Durations as people write them: ``90s``, ``15m``, ``2h``, ``7d``, or several in a row."""

import re

from proto.kit.errors import UsageError

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST_S = 36_500 * UNITS_S["d"]  # a century: no report is older
PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def parse_s(text: str, what: str) -> float:
    """Return seconds. Raises UsageError naming ``what``."""
    parts = PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise UsageError(f"{what} {text!r}: write a time such as 90s, 15m, 2h or 7d")
    seconds = sum(float(number) * UNITS_S[unit] for number, unit in parts)
    if seconds > LONGEST_S:
        raise UsageError(f"{what} {text!r}: at most {LONGEST_S // UNITS_S['d']}d")
    return seconds

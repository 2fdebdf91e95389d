"""Ages as kubectl shows them, from RFC 3339 times; and durations as people write them."""

import re
from datetime import datetime, timedelta
from typing import Any

UNKNOWN = "<unknown>"
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400
UNITS_S = {"ms": 0.001, "s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}  # Go knows no days; people write them
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def parse_time(text: Any) -> datetime | None:
    """Return the aware time in ``text``, None when there is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def seconds_of(text: str) -> float | None:
    """Return the seconds of ``90s``, ``1h30m`` or ``2d``, None when it is no duration."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * UNITS_S[unit] for number, unit in parts)


def age(text: Any, now: datetime) -> str:
    """Return how long ago ``text`` was: ``37s``, ``5m30s``, ``3h12m``, ``4d``, ``2y30d``."""
    moment = parse_time(text)
    return UNKNOWN if moment is None else human(now - moment)


def human(elapsed: timedelta) -> str:  # noqa: PLR0911  one line per unit, as kubectl's table of units
    """Return the two digits of a duration that matter (apimachinery's HumanDuration)."""
    seconds = int(elapsed.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 0:
        return "0s"
    if seconds < 2 * MINUTE:
        return f"{seconds}s"
    if seconds < 10 * MINUTE:
        return _two(seconds, MINUTE, "m", 1, "s")
    if seconds < 3 * HOUR:
        return f"{seconds // MINUTE}m"
    if seconds < 8 * HOUR:
        return _two(seconds, HOUR, "h", MINUTE, "m")
    if seconds < 2 * DAY:
        return f"{seconds // HOUR}h"
    if seconds < 8 * DAY:
        return _two(seconds, DAY, "d", HOUR, "h")
    if seconds < 2 * YEAR:
        return f"{seconds // DAY}d"
    if seconds < 8 * YEAR:
        return _two(seconds, YEAR, "y", DAY, "d")
    return f"{seconds // YEAR}y"


def _two(seconds: int, unit: int, unit_name: str, small: int, small_name: str) -> str:
    rest = seconds % unit // small
    return f"{seconds // unit}{unit_name}" + (f"{rest}{small_name}" if rest else "")

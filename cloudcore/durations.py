"""Durations in commands and annotations, with the sentence for what is none."""

from kubeapi.durations import DAY, seconds_of
from proto.kit.errors import UsageError

LONGEST_S = 36_500 * DAY  # a century: no report is older


def parse_s(text: str, what: str) -> float:
    """Return seconds. Raises UsageError naming ``what``."""
    seconds = seconds_of(text)
    if seconds is None:
        raise UsageError(f"{what} {text!r}: write a time such as 90s, 15m, 2h or 7d")
    if seconds > LONGEST_S:
        raise UsageError(f"{what} {text!r}: at most {LONGEST_S // DAY}d")
    return seconds

"""Cron schedules: five fields or a name (``@hourly``, ``@every 90m``), in a time zone or in UTC."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = re.compile(r"@every (?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
MAX_MISSED = 100  # more missed runs than this are not counted one by one


class BadSchedule(ValueError):
    """Not a schedule, or not a time zone; the sentence says which part."""


def _zone(name: str | None) -> tzinfo:
    if not name:
        return UTC
    if name.lower() == "local":
        raise BadSchedule("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSchedule(f"unknown time zone {name}") from error


def _fields(text: str) -> str:
    text = NAMED.get(text, text).strip()
    if "TZ=" in text:
        raise BadSchedule("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    if len(text.split()) != 5:
        raise BadSchedule(f"expected exactly 5 fields, found {len(text.split())}: {text}")
    return text.replace("?", "*")


def _period(text: str) -> timedelta | None:
    found = _EVERY.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds = (int(n or 0) for n in found.groups())
    return max(timedelta(seconds=1), timedelta(hours=hours, minutes=minutes, seconds=seconds))


def check_schedule(text: str) -> None:
    """Raise BadSchedule unless ``text`` is a schedule."""
    if _period(text) is None:
        try:
            CronSim(_fields(text), datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise BadSchedule(f"{str(error).lower()}: {text}") from error


def check_zone(name: str) -> None:
    """Raise BadSchedule unless ``name`` is a time zone."""
    if not name:
        raise BadSchedule("timeZone must be nil or non-empty string")
    _zone(name)


def next_run(schedule: str, after: datetime, zone: str | None = None) -> datetime | None:
    """Return the first time later than ``after``, None when there is none. Raises BadSchedule."""
    period = _period(schedule)
    if period is not None:
        return after.replace(microsecond=0) + period
    try:
        found = next(CronSim(_fields(schedule), after.astimezone(_zone(zone))), None)
    except CronSimError as error:
        raise BadSchedule(str(error)) from error
    return None if found is None else found.astimezone(UTC)


def missed(schedule: str, after: datetime, now: datetime, zone: str | None = None) -> tuple[datetime | None, int]:
    """Return the newest run due in (after, now] and how many there were; counting stops at MAX_MISSED + 1."""
    newest, count = None, 0
    at = next_run(schedule, after, zone)
    while at is not None and at <= now:
        newest, count = at, count + 1
        if count > MAX_MISSED:
            return _newest(schedule, now, zone), count
        at = next_run(schedule, at, zone)
    return newest, count


def _newest(schedule: str, now: datetime, zone: str | None) -> datetime | None:
    if _period(schedule) is not None:
        return now
    until = now.replace(microsecond=0) + timedelta(seconds=1)  # runs are at whole seconds, and one at ``now`` is due
    backwards = CronSim(_fields(schedule), until.astimezone(_zone(zone)), reverse=True)
    found = next(backwards, None)
    return None if found is None else found.astimezone(UTC)

"""When schedules are due: time zones, names, intervals, and what was missed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.schedules import MAX_MISSED, BadSchedule, check_schedule, check_zone, missed, next_run

WINTER = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda d: d.replace(tzinfo=UTC))  # noqa: DTZ001
SCHEDULES = st.sampled_from(
    ["* * * * *", "*/7 3-5 * * *", "30 2 * * *", "0 0 1 * *", "15 6 * * 1-5", "@hourly", "@every 90m"]
)
ZONES = st.sampled_from([None, "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("schedule", "zone", "wanted"),
    [
        ("0 9 * * *", None, "2026-01-16T09:00:00+00:00"),
        ("0 9 * * *", "Europe/Berlin", "2026-01-16T08:00:00+00:00"),
        ("0 9 * * *", "Asia/Kathmandu", "2026-01-16T03:15:00+00:00"),
        ("@daily", "America/New_York", "2026-01-16T05:00:00+00:00"),
        ("@every 1h30m", None, "2026-01-15T13:30:00+00:00"),
        ("0 0 29 2 *", None, "2028-02-29T00:00:00+00:00"),
    ],
)
def test_the_next_run_is_by_the_clock_of_the_zone(schedule: str, zone: str | None, wanted: str) -> None:
    assert next_run(schedule, WINTER, zone) == at(wanted)


def test_an_hour_that_a_zone_leaves_out_or_has_twice_gives_one_run_a_day() -> None:
    for day in (
        "2026-03-28T12:00:00+00:00",
        "2026-10-24T12:00:00+00:00",
    ):  # Berlin changes its clock at the 29th, the 25th
        first = next_run("30 2 * * *", at(day), "Europe/Berlin")
        assert first is not None
        second = next_run("30 2 * * *", first, "Europe/Berlin")
        assert second is not None
        assert timedelta(hours=22) <= second - first <= timedelta(hours=26)


@given(SCHEDULES, INSTANTS, ZONES)
def test_the_next_run_is_later_and_nothing_is_due_in_between(schedule: str, now: datetime, zone: str | None) -> None:
    found = next_run(schedule, now, zone)
    assert found is not None
    assert found > now
    assert missed(schedule, now, found - timedelta(seconds=1), zone)[1] == 0
    assert missed(schedule, now, found, zone) == (found, 1)


@given(INSTANTS, st.integers(0, 5000))
def test_the_newest_missed_run_is_found_however_many_there_were(since: datetime, minutes: int) -> None:
    now = since + timedelta(minutes=minutes)
    newest, count = missed("* * * * *", since, now)
    assert count <= MAX_MISSED + 1
    if newest is None:
        assert minutes == 0
    else:
        assert timedelta(0) <= now - newest < timedelta(minutes=1)


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "61 * * * *", "* * * * * *", "TZ=UTC * * * * *", "@every", "@every x"]
)
def test_what_is_no_schedule_is_said(schedule: str) -> None:
    with pytest.raises(BadSchedule):
        check_schedule(schedule)


@pytest.mark.parametrize("zone", ["", "Local", "Europe/Atlantis", "../../etc/passwd"])
def test_what_is_no_zone_is_said(zone: str) -> None:
    with pytest.raises(BadSchedule):
        check_zone(zone)

"""Container logs in CRI's format, as `kubectl logs` shows them."""

import os
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgecore.pods.logfile import LogChannels, Wanted, tail, timestamp
from proto.kit.channels import STDOUT, ChannelsClosed
from proto.kit.clock import SystemClock
from tests.kit.wait import eventually


def line(number: int, text: str = "", tag: str = "F") -> str:
    return f"2026-01-01T00:00:{number % 60:02d}.{number:09d}Z stdout {tag} {text or f'line {number}'}\n"


class Log:
    """A log that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "0.log"
        self.ended = False
        self.looks = 0

    def append(self, *lines: str) -> None:
        with self.path.open("a") as file:
            file.write("".join(lines))

    def rotate(self, name: str) -> None:
        self.path.rename(self.path.with_name(f"0.log.{name}"))

    async def _ended(self) -> bool:
        self.looks += 1
        return self.ended

    def open(self, **wanted: object) -> LogChannels:
        return LogChannels(self.path, Wanted(**wanted), clock=SystemClock(), ended=self._ended)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def text_of(channels: LogChannels) -> str:
    parts = []
    while (chunk := await channels.read()) is not None:
        assert chunk.channel == STDOUT
        parts.append(chunk.data)
    await channels.close()
    return b"".join(parts).decode()


async def test_lines_lose_their_envelope(log: Log) -> None:
    log.append(line(1), line(2, "two words"), line(3, " "))
    assert await text_of(log.open()) == "line 1\ntwo words\n \n"


async def test_an_empty_line_stays_a_line(log: Log) -> None:
    log.append("2026-01-01T00:00:00Z stdout F \n", "2026-01-01T00:00:00Z stderr F\n")
    assert await text_of(log.open()) == "\n\n"


async def test_a_line_in_parts_is_one_line_with_one_timestamp(log: Log) -> None:
    log.append(line(1, "be", "P"), line(1, "gin", "P"), line(1, "ning"), line(2))
    assert await text_of(log.open()) == "beginning\nline 2\n"
    stamped = await text_of(log.open(timestamps=True))
    assert stamped == "2026-01-01T00:00:01.000000001Z beginning\n2026-01-01T00:00:02.000000002Z line 2\n"


async def test_what_no_runtime_wrote_is_left_out(log: Log) -> None:
    log.append("\0\0\0\0\n", line(1), "torn\n", line(2), "2026-01-01T00:00:0")
    assert await text_of(log.open()) == "line 1\nline 2\n"


@pytest.mark.parametrize(("lines", "first"), [(0, 1000), (1, 999), (7, 993), (999, 1), (1000, 0), (5000, 0)])
async def test_tail_shows_the_last_lines(log: Log, lines: int, first: int) -> None:
    log.append(*map(line, range(1000)))
    assert await text_of(log.open(tail_lines=lines)) == "".join(f"line {n}\n" for n in range(first, 1000))


def test_tail_finds_the_place_in_any_file(tmp_path: Path) -> None:
    rng = random.Random(3)
    path = tmp_path / "0.log"
    for _ in range(60):
        logical = [
            [line(n, "x" * rng.choice([0, 1, 30, 9000]) or " ", "P") for _ in range(rng.choice([0, 0, 1, 12]))]
            + [line(n, "end")]
            for n in range(rng.randrange(30))
        ]
        path.write_text("".join(part for parts in logical for part in parts))
        wanted = rng.randrange(1, 35)
        found, offset = tail(path, wanted)
        assert found == min(wanted, len(logical))
        rest = "".join(part for parts in logical[max(0, len(logical) - wanted) :] for part in parts)
        assert path.read_bytes()[offset:].decode() == rest


async def test_tail_and_all_reach_into_what_rotation_left(log: Log) -> None:
    log.append(line(1), line(2))
    log.rotate("20260101-000001")
    log.append(line(3))
    log.rotate("20260101-000002")
    log.append(line(4))
    assert await text_of(log.open()) == "line 1\nline 2\nline 3\nline 4\n"
    assert await text_of(log.open(tail_lines=3)) == "line 2\nline 3\nline 4\n"
    assert await text_of(log.open(tail_lines=1)) == "line 4\n"


async def test_since_leaves_out_what_is_older(log: Log) -> None:
    log.append(*map(line, range(10)))
    since = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    assert await text_of(log.open(since=since)) == "line 7\nline 8\nline 9\n"


async def test_a_limit_cuts_at_the_byte(log: Log) -> None:
    log.append(*map(line, range(10)))
    assert await text_of(log.open(limit_bytes=10)) == "line 0\nlin"
    log.ended = False
    assert await text_of(log.open(limit_bytes=10, follow=True)) == "line 0\nlin"


async def test_following_shows_what_comes_and_ends_with_the_container(log: Log) -> None:
    log.append(line(1))
    channels = log.open(follow=True)
    assert (await channels.read()) == (STDOUT, b"line 1\n")
    log.append(line(2))
    assert (await channels.read()) == (STDOUT, b"line 2\n")
    log.append(line(3))
    log.ended = True
    assert await text_of(channels) == "line 3\n"


async def test_following_survives_rotation_however_often(log: Log) -> None:
    log.append(line(1))
    channels = log.open(follow=True)
    assert (await channels.read()) == (STDOUT, b"line 1\n")
    for number in range(2, 6):
        log.append(line(number))
        log.rotate(f"2026010{number}-000000")
    log.append(line(6))
    log.ended = True
    assert await text_of(channels) == "line 2\nline 3\nline 4\nline 5\nline 6\n"


async def test_following_a_log_that_is_not_there_yet_waits_for_it(log: Log) -> None:
    channels = log.open(follow=True)
    await eventually(lambda: not log.path.exists())
    log.append(line(1))
    assert (await channels.read()) == (STDOUT, b"line 1\n")
    await channels.close()


async def test_a_closed_log_is_no_end(log: Log) -> None:
    log.append(line(1))
    channels = log.open(follow=True)
    await channels.read()
    await channels.close()
    with pytest.raises(ChannelsClosed):
        await channels.read()


async def test_a_quiet_log_asks_rarely_about_its_container(log: Log) -> None:
    log.append(line(1))
    channels = log.open(follow=True)
    await channels.read()
    log.ended = True
    assert await text_of(channels) == ""
    assert log.looks == 1


async def test_no_descriptor_stays_open(log: Log) -> None:
    log.append(*map(line, range(5)))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for wanted in ({}, {"tail_lines": 2}, {"limit_bytes": 3}):
        await text_of(log.open(**wanted))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (b"2016-10-06T00:17:09.669794202Z", datetime(2016, 10, 6, 0, 17, 9, 669794, UTC)),
        (b"2016-10-06T02:17:09.6+02:00", datetime(2016, 10, 6, 0, 17, 9, 600000, UTC)),
        (b"2016-10-06T00:17:09Z", datetime(2016, 10, 6, 0, 17, 9, 0, UTC)),
        (b"yesterday", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_timestamps_are_read_as_runtimes_write_them(text: bytes, moment: datetime | None) -> None:
    assert timestamp(text) == moment

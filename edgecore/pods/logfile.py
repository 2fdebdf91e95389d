"""A container's log as `kubectl logs` shows it, read from files in CRI's format, rotation included.

A line of such a file: ``2016-10-06T00:17:09.669794202Z stdout F content``; ``P`` instead of ``F``: the line goes on in the next.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proto.kit.channels import STDOUT, ChannelsClosed, Chunk
from proto.kit.clock import Clock

BLOCK_BYTES = 64 << 10
MAX_LINE_BYTES = 1 << 20  # of a line that has no end; a runtime cuts at 16 KiB
QUICK_S, SLOW_S = 0.1, 0.5  # between two looks at a file: soon after it grew, and once it is quiet
FULL, PARTIAL = b"F", b"P"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log is asked for; None: no bound."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None


def segments(path: Path) -> list[Path]:
    """Return what rotation left of the log at ``path``, oldest first, and itself last; compressed ones are not read."""
    rotated = [p for p in path.parent.glob(path.name + ".*") if p.suffix not in (".gz", ".tmp")]
    return [*sorted(rotated), path]


class LogChannels:
    """The log as ``Channels``: only STDOUT says something. Files are read as far as somebody reads here.

    ``ended`` says whether the container writes no more; it is asked at most once per look at a quiet file.
    """

    def __init__(self, path: Path, wanted: Wanted, *, clock: Clock, ended: Callable[[], Awaitable[bool]]) -> None:
        self._path = path
        self._wanted = wanted
        self._clock = clock
        self._ended = ended
        self._lines = _Lines(wanted)
        self._todo = deque(segments(path))
        self._closed = False
        self._file = -1
        self._pause_s = QUICK_S
        self._over = False
        self._seek()

    async def read(self) -> Chunk | None:
        while not self._closed:
            block = self._block()
            if block:
                self._pause_s = QUICK_S
                out = self._lines.feed(block)
                if out:
                    return Chunk(STDOUT, out)
                if self._lines.full:
                    return None
                await self._clock.sleep(0)  # a long log of which nothing is wanted must not hold up the node
            elif not await self._more():
                return None
        raise ChannelsClosed("the log was closed")

    async def write(self, channel: int, data: bytes) -> None:
        """Nobody listens to what is written to a log."""
        del channel, data

    async def finish(self, channel: int) -> None:
        del channel

    async def close(self, error: str = "") -> None:
        del error
        self._closed = True
        self._leave()

    def _block(self) -> bytes:
        if self._lines.full:
            return b""
        while True:
            if self._file < 0 and not self._next():
                return b""
            block = os.read(self._file, BLOCK_BYTES)
            if block or not self._todo:
                return block
            self._leave()

    def _next(self) -> bool:
        while self._todo:
            try:
                self._file = os.open(self._todo.popleft(), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # rotated away meanwhile
                continue
            return True
        return False

    async def _more(self) -> bool:
        """At the end of what there is: wait for more. False: nothing will come."""
        if self._lines.full or not self._wanted.follow or self._over:
            return False
        if self._rotated():
            return True
        if self._pause_s >= SLOW_S and await self._ended():
            self._over = True  # one more look: it may have written between our look and its end
            return True
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(SLOW_S, self._pause_s * 2)
        return True

    def _rotated(self) -> bool:
        """Whether there is more to read in files that came after the one that is open."""
        if self._file < 0:
            self._todo.append(self._path)
            return self._next()
        here = os.fstat(self._file)
        files = segments(self._path)
        position = next((i for i, file in enumerate(files) if _is(file, here)), -1)
        if position == len(files) - 1:
            if here.st_size < os.lseek(self._file, 0, os.SEEK_CUR):
                os.lseek(self._file, 0, os.SEEK_SET)  # truncated in place
                return True
            return False
        self._todo.extend(files[position + 1 :])  # the open one is read to its end first
        return any(file.exists() for file in self._todo)

    def _leave(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _seek(self) -> None:
        """Start where the last ``tail_lines`` begin."""
        wanted = self._wanted.tail_lines
        if wanted is None:
            return
        files = list(self._todo)
        left = wanted
        start: deque[Path] = deque()
        offset = 0
        for file in reversed(files):
            start.appendleft(file)
            try:
                found, offset = tail(file, left)
            except FileNotFoundError:
                start.popleft()
                continue
            left -= found
            if left <= 0:
                break
        self._todo = start
        if self._next():
            os.lseek(self._file, offset, os.SEEK_SET)


def _is(path: Path, here: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), here)
    except OSError:
        return False


def tail(path: Path, lines: int) -> tuple[int, int]:
    """Return how many full lines (at most ``lines``) the end of the file has, and where the first of them begins."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if lines <= 0:
            return 0, end
        found, first = 0, 0
        for offset, line in _backwards(file.fileno(), end):
            if _tag(line) == FULL:
                if found == lines:
                    return found, first
                found += 1
            first = offset
        return found, 0


def _backwards(descriptor: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of whole lines from the last one back."""
    rest = b""
    whole = False  # whether ``rest`` is followed by a newline
    position = end
    while position > 0:
        size = min(BLOCK_BYTES, position)
        position -= size
        parts = (os.pread(descriptor, size, position) + rest).split(b"\n")
        offset = position + sum(map(len, parts)) + len(parts) - 1
        for number in range(len(parts) - 1, 0, -1):
            offset -= len(parts[number])
            if whole or number < len(parts) - 1:
                yield offset, parts[number]
            whole = True
            offset -= 1
        rest = parts[0]
    if whole and end:
        yield 0, rest


def _tag(line: bytes) -> bytes:
    parts = line.split(b" ", 3)
    return parts[2][:1] if len(parts) > 2 else b""


class _Lines:
    """From blocks of a file in CRI's format to what a person reads."""

    def __init__(self, wanted: Wanted) -> None:
        self._timestamps = wanted.timestamps
        self._since = wanted.since
        self._left = wanted.limit_bytes
        self._rest = b""
        self._inside = False  # of a line that came in parts

    @property
    def full(self) -> bool:
        return self._left is not None and self._left <= 0

    def feed(self, block: bytes) -> bytes:
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
        out: list[bytes] = []
        for line in lines:
            self._one(line, out)
        text = b"".join(out)
        if self._left is not None:
            text = text[: self._left]
            self._left -= len(text)
        return text

    def _one(self, line: bytes, out: list[bytes]) -> None:
        parts = line.split(b" ", 3)
        if len(parts) < 3:
            return  # torn by a power cut
        at, _, tag = parts[:3]
        if self._since is not None:
            moment = timestamp(at)
            if moment is None or moment < self._since:
                return
            self._since = None  # what comes later is later
        if self._timestamps and not self._inside:
            out.append(at + b" ")
        out.append(parts[3] if len(parts) > 3 else b"")
        self._inside = tag.startswith(PARTIAL)
        if not self._inside:
            out.append(b"\n")


def timestamp(text: bytes) -> datetime | None:
    """Read RFC 3339 with up to nine digits; None for anything else."""
    whole, dot, rest = text.decode("ascii", "replace").partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    zone = rest[len(digits) :] if dot else ""
    try:
        moment = datetime.fromisoformat(f"{whole}.{(digits + '000000')[:6]}{zone}" if dot else whole)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

"""A container's log file, in the format of CRI: ``TIME STREAM TAG TEXT``; a part of a line that goes on has the tag P."""

import os
import time

PART_BYTES = 16 << 10


class LogFile:
    """Never stops a container: what cannot be written is counted, and the count is written once that works again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._rest = {"stdout": b"", "stderr": b""}
        self._lost = 0
        self.open()

    def open(self) -> None:
        """Open the path anew, as after a rotation."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._path:
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._path, flags, 0o640)
            except OSError:
                self._fd = -1

    def write(self, stream: str, data: bytes) -> None:
        """Take what a container wrote; whole lines go to the file."""
        head = _head(stream)
        out: list[bytes] = []
        lines = (self._rest[stream] + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            while len(line) > PART_BYTES:
                out.append(head + b"P " + line[:PART_BYTES] + b"\n")
                line = line[PART_BYTES:]  # noqa: PLW2901
            out.append(head + b"F " + line + b"\n")
        while len(rest) > PART_BYTES:
            out.append(head + b"P " + rest[:PART_BYTES] + b"\n")
            rest = rest[PART_BYTES:]
        self._rest[stream] = rest
        self._put(out)

    def finish(self, stream: str) -> None:
        """Write the last line, which had no end."""
        rest, self._rest[stream] = self._rest[stream], b""
        if rest:
            self._put([_head(stream) + b"F " + rest + b"\n"])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._fd < 0:
            self.open()
        if self._lost:
            lines.insert(0, _head("stderr") + b"F [%d lines were lost: the log could not be written]\n" % self._lost)
        data = b"".join(lines)
        try:
            at = os.fstat(self._fd).st_size
            whole = os.write(self._fd, data) == len(data)
            if not whole:  # the disk is full: no half line stays
                os.ftruncate(self._fd, at)
        except OSError:
            whole = False
        self._lost = 0 if whole else self._lost + len(lines) - (1 if self._lost else 0)


def _head(stream: str) -> bytes:
    seconds, part = divmod(time.time_ns(), 1_000_000_000)
    moment = time.gmtime(seconds)
    return (time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{part:09d}Z {stream} ").encode()

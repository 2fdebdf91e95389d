"""A person at a terminal: a command on a pty of its own, what is typed into it and what its screen shows."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from tests.kit.wait import eventually

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Use ``open_terminal``. ``screen`` is all that was ever shown, without escape sequences."""

    def __init__(self, process: asyncio.subprocess.Process, ours: int) -> None:
        self.process, self.screen = process, ""
        self._ours = ours

    def modes(self) -> list[object]:
        """How the terminal treats keys."""
        return termios.tcgetattr(self._ours)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """As when a person pulls at the window: the kernel tells the command's group."""
        resize(self._ours, rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    async def shows(self, pattern: str, timeout_s: float = 15.0) -> None:
        """Wait until the screen shows something new that matches; what is before it is done with."""

        def found() -> bool:
            with suppress(BlockingIOError, OSError):
                self.screen += ESCAPES.sub("", os.read(self._ours, 65536).decode(errors="replace"))
            hit = re.search(pattern, self.screen, re.MULTILINE)
            if hit is not None:
                self.screen = self.screen[hit.end() :]
            return hit is not None

        try:
            await eventually(found, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{pattern!r} is not on the screen: {self.screen!r}") from error


@asynccontextmanager
async def open_terminal(
    argv: Sequence[str], *, rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None
) -> AsyncIterator[Terminal]:
    """Run ``argv`` on a new terminal; end it afterwards."""
    ours, theirs = pty.openpty()
    resize(theirs, rows, columns)
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=env
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Terminal(process, ours)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(ours)


async def work_at(person: Terminal) -> None:
    """What must be as at home in a shell that runs elsewhere, on a window of 33 by 101: its size and its changes, and Ctrl-C."""
    await person.shows(r"[#$] $")
    person.type("tty; stty size\n")
    await person.shows(r"^/dev/\S+\s+33 101\s")
    person.resize(44, 122)
    person.type("until [ \"$(stty size)\" = '44 122' ]; do sleep 0.1; done; echo larger\n")
    await person.shows(r"^larger\s")
    person.type("sh -c 'echo sleeping; exec sleep 500'\n")
    await person.shows(r"^sleeping\s")  # only now a key is a signal
    person.type("\x03")
    person.type("echo interrupted: $?\n")
    await person.shows(r"^interrupted: 130\s")


def resize(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

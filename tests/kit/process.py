"""A real daemon process in a test: started until its ready line, stopped by its own pid, its log kept beside it."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.kit.wait import eventually

READY_S = 20.0
STOP_S = 15.0


def send(process: asyncio.subprocess.Process, number: int) -> None:
    """Signal a child. Not by its own ``send_signal``: that polls, may reap it behind asyncio's back, and its code is lost."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


class Daemon:
    """``python -m MODULE ARGS``. ``addresses`` are those of the last ready line."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.argv = [sys.executable, "-m", *argv]
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.addresses: dict[str, str] = {}
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, *more: str, ready_s: float = READY_S) -> None:
        """Start and wait for the ready line; the log is in the failure."""
        out = self.log.with_suffix(".out")
        out.write_bytes(b"")
        with self.log.open("ab") as err, out.open("ab") as std:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv, *more, stdin=asyncio.subprocess.DEVNULL, stdout=std, stderr=err, env=self.env
            )
        self.starts += 1

        def ready() -> bool:
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.tail()}"
            return any(" ready " in line for line in out.read_text().splitlines())

        try:
            await eventually(ready, ready_s)
        except AssertionError as error:
            raise AssertionError(f"{self.name} is not ready: {error}\n{self.tail()}") from error
        line = next(line for line in out.read_text().splitlines() if " ready " in line)
        self.addresses = dict(pair.split("=", 1) for pair in line.split()[2:])

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send ``number`` and return the exit code; killed when it does not end in time."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            send(self._process, signal.SIGCONT)
            send(self._process, number)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError as error:
                send(self._process, signal.SIGKILL)
                await self._process.wait()
                raise AssertionError(f"{self.name} did not stop:\n{self.tail()}") from error
        assert self._process.returncode is not None
        return self._process.returncode

    async def kill(self) -> None:
        """SIGKILL, and wait until the kernel has taken it."""
        if self.running:
            assert self._process is not None
            send(self._process, signal.SIGKILL)
            await self._process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def mapped_files(self) -> str:
        """Every file that the process has mapped: its extension modules are among them."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

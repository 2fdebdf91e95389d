"""Talking to a pod's supervisor: one packet a message, descriptors beside it, every wait bounded."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgecore.pods.runtime import RuntimeRefused

Json = dict[str, Any]
SOCKET, LOCK = "sock", "lock"
QUICK_S = 20.0
MAX_MESSAGE_BYTES = 192 << 10
MAX_FDS = 8


class Gone(RuntimeRefused):
    """The supervisor does not live (any more)."""

    code = "SupervisorGone"


def lives(folder: Path) -> bool:
    """Whether the supervisor of a pod lives: it holds a lock as long as it does."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class Connection:
    """One conversation; ending it ends what belongs to it."""

    def __init__(self, folder: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        try:
            inside = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._sock.connect(f"/proc/self/fd/{inside}/{SOCKET}")  # a data directory may have a long name
            finally:
                os.close(inside)
        except OSError as error:
            self._sock.close()
            raise Gone(f"the pod's supervisor does not answer: {error.strerror}") from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Json, fds: Sequence[int] = ()) -> None:
        """Raises Gone, RuntimeRefused for what is too long."""
        data = msgspec.json.encode(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise RuntimeRefused(f"the command has {len(data)} bytes; {MAX_MESSAGE_BYTES} are taken")
        try:
            socket.send_fds(self._sock, [data], list(fds))
        except OSError as error:
            raise Gone(f"the pod's supervisor does not answer: {error.strerror}") from error

    def receive_now(self) -> tuple[Json | None, list[int]]:
        """Return a message that is here, None at the end. Raises BlockingIOError."""
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE_BYTES, MAX_FDS)
        except ConnectionError:
            return None, []
        return (msgspec.json.decode(data) if data else None), fds

    async def receive(self, timeout_s: float | None = QUICK_S) -> tuple[Json | None, list[int]]:
        """Wait for a message; None: the supervisor has ended. Raises RuntimeRefused when it does not answer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return self.receive_now()
                    except BlockingIOError:
                        ready = loop.create_future()
                        loop.add_reader(self._sock, _wake, ready)
                        try:
                            await ready
                        finally:
                            loop.remove_reader(self._sock)
        except TimeoutError as error:
            raise RuntimeRefused(f"the pod's supervisor did not answer within {timeout_s:g} s") from error

    def close(self) -> None:
        self._sock.close()


@asynccontextmanager
async def conversation(folder: Path) -> AsyncIterator[Connection]:
    connection = Connection(folder)
    try:
        yield connection
    finally:
        connection.close()


async def ask(folder: Path, message: Json, timeout_s: float = QUICK_S) -> Json:
    """Send one message and return the answer. Raises Gone, RuntimeRefused with the supervisor's words."""
    async with conversation(folder) as connection:
        connection.send(message)
        return checked(await connection.receive(timeout_s))[0]


def checked(received: tuple[Json | None, list[int]]) -> tuple[Json, list[int]]:
    answer, fds = received
    if answer is None:
        raise Gone("the pod's supervisor has ended")
    if "error" in answer:
        for fd in fds:
            os.close(fd)
        raise RuntimeRefused(str(answer["error"]))
    return answer, fds


def _wake(ready: "asyncio.Future[None]") -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        ready.set_result(None)

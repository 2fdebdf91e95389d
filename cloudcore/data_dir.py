"""The cloud's data directory: one daemon at a time, and what the commands need to find that daemon."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from proto.kit import files
from proto.kit.errors import Terminal, UsageError

LOCK, ADDRESSES = "cloudcore.lock", "addresses.json"
ADMIN_KUBECONFIG = "admin.kubeconfig"


class AlreadyRunning(Terminal):
    """Another cloudcore serves this data directory."""

    code = "AlreadyRunning"


class Addresses(msgspec.Struct, frozen=True):
    """Where the running daemon serves; "" for parts that are not embedded."""

    pid: int
    api: str
    broker: str
    join: str
    admin: str


@dataclass(slots=True)
class Lock:
    """Holds the data directory; released with the process, however it ends."""

    path: Path
    _handle: int = -1

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._handle = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(
                f"data directory {self.path.parent}: {error.strerror}; choose another with --data-dir"
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise AlreadyRunning(
                f"a cloudcore is serving {self.path.parent} already: stop it first, or use another --data-dir"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)


def lock(data_dir: Path) -> Lock:
    """Return the lock of ``data_dir``; entering it raises AlreadyRunning, UsageError."""
    return Lock(data_dir / LOCK)


def is_running(data_dir: Path) -> bool:
    """Whether a daemon holds ``data_dir``."""
    path = data_dir / LOCK
    if not path.exists():
        return False
    try:
        with Lock(path):
            return False
    except AlreadyRunning:
        return True


def write_addresses(data_dir: Path, addresses: Addresses) -> None:
    files.write(data_dir / ADDRESSES, msgspec.json.encode(addresses))


def read_addresses(data_dir: Path) -> Addresses | None:
    """Return where the daemon that last served ``data_dir`` was, None when there was none."""
    try:
        return msgspec.json.decode((data_dir / ADDRESSES).read_bytes(), type=Addresses)
    except (OSError, msgspec.DecodeError):
        return None

"""The layout of an edge's data directory, and the lock that lets one daemon in.

``edge.db edge.yaml edgecore.lock pki/{ca.crt,node.crt,node.key}``; the lock file says who runs and where it answers.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proto.kit.canonical import UNREADABLE
from proto.kit.errors import SkerryError, Terminal

MAX_LOCK_BYTES = 4096
# of the node-local API, in the pki directory
LOCAL_CA, LOCAL_CA_KEY = "local-ca.crt", "local-ca.key"
LOCAL_CERTIFICATE, LOCAL_KEY = "local-api.crt", "local-api.key"


class AlreadyRunning(Terminal):
    """Another edgecore holds this data directory."""

    code = "AlreadyRunning"


class Running(msgspec.Struct, frozen=True):
    """Who runs on a data directory. ``api_port`` 0: not serving yet."""

    pid: int = 0
    api_host: str = ""
    api_port: int = 0


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths inside one data directory."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "edge.db"

    @property
    def settings(self) -> Path:
        return self.path / "edge.yaml"

    @property
    def lock(self) -> Path:
        return self.path / "edgecore.lock"

    @property
    def reserve(self) -> Path:
        return self.path / "edge.db.reserve"

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def ca(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.pki / "node.crt"

    @property
    def key(self) -> Path:
        return self.pki / "node.key"

    def joined(self) -> bool:
        """Whether an identity is here."""
        return self.certificate.exists() and self.key.exists() and self.ca.exists()

    def running(self) -> Running | None:
        """The daemon that holds the lock now; None when nobody does."""
        try:
            fd = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read(fd)
        else:
            return None
        finally:
            os.close(fd)


class Lock:
    """Held while the daemon runs; the kernel lets go at any end of the process."""

    def __init__(self, directory: DataDir) -> None:
        self._directory = directory
        self._fd = -1

    def take(self) -> None:
        """Raises AlreadyRunning, or SkerryError when the directory cannot be used."""
        try:
            self._directory.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self._directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SkerryError(f"data directory {self._directory.path}: {error.strerror}; see --data-dir") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(self._fd) or Running()
            os.close(self._fd)
            self._fd = -1
            raise AlreadyRunning(
                f"edgecore already runs on {self._directory.path} (pid {holder.pid}); stop it first or use another --data-dir"
            ) from error
        self.say(Running(pid=os.getpid()))

    def say(self, running: Running) -> None:
        """Write who runs here, for the commands."""
        with suppress(OSError):  # a full disk must not keep the daemon from starting
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, msgspec.json.encode(running), 0)

    def release(self) -> None:
        if self._fd >= 0:
            self.say(Running())
            os.close(self._fd)
            self._fd = -1


def _read(fd: int) -> Running | None:
    try:
        return msgspec.json.decode(os.pread(fd, MAX_LOCK_BYTES, 0), type=Running)
    except (OSError, *UNREADABLE):
        return Running()

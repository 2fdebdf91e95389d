"""A private PostgreSQL in a temporary directory: no network, gone afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UNPRIVILEGED = 65534  # nobody: initdb refuses root


def binaries() -> Path | None:
    """Return the directory of PostgreSQL's server programs, the newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    first = found[0] if found else on_path
    return Path(first).parent if first else None


def run(*command: str | Path) -> None:
    """Run ``command``, as nobody when we are root."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        user=user,
        group=user,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr or done.stdout


class Postgres:
    """One running server; ``url(name)`` makes a database."""

    def __init__(self, bin_dir: Path, root: Path) -> None:
        self.bin_dir, self.root = bin_dir, root
        self._made = 0

    def start(self) -> None:
        settings = f"-c listen_addresses='' -c unix_socket_directories='{self.root}' -c shared_buffers=16MB -c max_connections=30"
        run(self.bin_dir / "pg_ctl", "-D", self.root / "data", "-o", settings, "-l", self.root / "log", "-w", "start")

    def stop(self) -> None:
        run(self.bin_dir / "pg_ctl", "-D", self.root / "data", "-m", "immediate", "-w", "stop")

    def url(self) -> str:
        """Return the URL of a new, empty database."""
        self._made += 1
        name = f"skerry{self._made}"
        run(self.bin_dir / "createdb", "-h", self.root, "-U", "skerry", name)
        return f"postgresql+psycopg://skerry@/{name}?host={self.root}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server for the time of the block; fails where PostgreSQL is not installed."""
    bin_dir = binaries()
    if bin_dir is None:
        pytest.fail("PostgreSQL's server programs are missing: run deploy/parts.sh")
    root = Path(tempfile.mkdtemp(prefix="skerry-pg-"))  # short: a socket's path holds 107 bytes
    root.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root, UNPRIVILEGED, UNPRIVILEGED)
    server = Postgres(bin_dir, root)
    try:
        run(bin_dir / "initdb", "-D", root / "data", "-U", "skerry", "-A", "trust", "--no-sync", "-E", "UTF8")
        server.start()
        yield server
    finally:
        if (root / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(root, ignore_errors=True)

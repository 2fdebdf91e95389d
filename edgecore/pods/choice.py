"""Which container runtime this node uses. What was once used is waited for: a slow start of it must not pick another."""

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edgecore.pods.runtime import ContainerRuntime
from edgecore.pods.settings import PodsSettings
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx

SCHEMA = "CREATE TABLE IF NOT EXISTS pod_runtime (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL);"
CRI, PROCESS, NONE = "cri", "process", "none"
CONNECT_S = 1.0


def remembered(db: Database) -> str:
    """The runtime that pods of this disk were run with; "" for none yet."""
    row = db.read(lambda conn: conn.execute("SELECT name FROM pod_runtime").fetchone())
    return str(row[0]) if row else ""


async def remember(db: Database, name: str) -> None:
    def write(tx: Tx) -> None:
        tx.execute("INSERT OR REPLACE INTO pod_runtime (id, name) VALUES (1, ?)", (name,))

    await db.tx(write)


def choose(settings: PodsSettings, before: str) -> tuple[str, str]:
    """Return (cri, process or none; why none)."""
    if settings.runtime == NONE:
        return NONE, "pods.runtime is none"
    if settings.runtime != "auto":
        return (settings.runtime, "") if settings.runtime in OPENERS else (NONE, _process_lacks())
    if before in OPENERS:
        return before, ""
    if answers(Path(settings.cri_socket)):
        return CRI, ""
    lacks = _process_lacks()
    if not lacks:
        return PROCESS, ""
    return NONE, f"nothing answers on {settings.cri_socket}, and {lacks}"


def answers(path: Path) -> bool:
    """Whether something listens on a unix socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def _process_lacks() -> str:
    """Why pods cannot be run as plain processes; "" when they can."""
    if PROCESS not in OPENERS:
        return "this edgecore runs no pods as plain processes"
    if os.geteuid() != 0:
        return "edgecore is not root"
    return "" if shutil.which("bwrap") else "bubblewrap (bwrap) is not installed"


def open_runtime(name: str, settings: PodsSettings, clock: Clock, data_dir: Path) -> ContainerRuntime:
    """Open a runtime that ``choose`` returned."""
    return OPENERS[name](settings, clock, data_dir)


def _open_cri(settings: PodsSettings, clock: Clock, _: Path) -> ContainerRuntime:
    from edgecore.pods.cri.runtime import CriRuntime  # noqa: PLC0415  a node without a runtime never pays for gRPC

    return CriRuntime(Path(settings.cri_socket), clock)


def _open_process(settings: PodsSettings, clock: Clock, data_dir: Path) -> ContainerRuntime:
    from edgecore.pods.process.runtime import ProcessRuntime  # noqa: PLC0415

    return ProcessRuntime(data_dir, clock, subnet=settings.process_subnet)


OPENERS: dict[str, Callable[[PodsSettings, Clock, Path], ContainerRuntime]] = {CRI: _open_cri, PROCESS: _open_process}

"""End every pod of this node for good, without the daemon: for a reset and for the removal of the package."""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

from edgecore import offline
from edgecore.data_dir import AlreadyRunning, DataDir, Lock
from edgecore.pods import cgroups, choice, marks, poddirs
from edgecore.pods.runtime import ContainerRuntime
from edgecore.settings import Settings
from proto.kit.clock import Clock
from proto.kit.errors import SkerryError


def clear(directory: DataDir, settings: Settings, clock: Clock) -> list[str]:
    """Stop and remove what edgecore ran here; returns NAMESPACE/NAME of each. Volumes of class local-path stay.

    Raises AlreadyRunning while the daemon runs, SkerryError (RuntimeAway among them) when something cannot be ended.
    """
    row = offline.read(directory, _runtime_name)
    if not row:
        return []
    lock = Lock(directory)
    try:
        lock.take()
    except AlreadyRunning as error:
        raise AlreadyRunning(f"{error}: systemctl stop edgecore") from error
    try:
        ended = asyncio.run(_end_all(choice.open_runtime(row, settings.pods, clock, directory.path)))
        _delete_files(directory.path)
        if row == choice.PROCESS:
            from edgecore.pods.process import traces  # noqa: PLC0415  other nodes never load it

            traces.remove(directory.path)
    except OSError as error:
        raise SkerryError(f"pods of {directory.path} are not all gone: {error}; run it again") from error
    finally:
        lock.release()
    return ended


def _runtime_name(conn: sqlite3.Connection) -> str:
    found = conn.execute("SELECT name FROM pod_runtime").fetchone()
    return str(found[0]) if found else ""


async def _end_all(runtime: ContainerRuntime) -> list[str]:
    try:
        ours = [one for one in await runtime.sandboxes() if marks.MANAGED_BY in one.labels]
        for sandbox in ours:
            await runtime.stop_sandbox(sandbox.id)
            await runtime.remove_sandbox(sandbox.id)
    finally:
        await runtime.close()
    return sorted({f"{one.namespace}/{one.name}" for one in ours})


def _delete_files(data_dir: Path) -> None:
    dirs = poddirs.PodDirs(data_dir, memory=poddirs.memory_home(data_dir), mounting=True)
    for uid in dirs.uids():
        cgroups.remove(uid)
        dirs.delete(uid)
    if dirs.memory is not None:
        with suppress(OSError):  # never made, or somebody's shell is in there
            dirs.memory.rmdir()
    cgroups.remove_classes()

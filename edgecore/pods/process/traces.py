"""What the runtime leaves on the machine for the next pod, and takes away with the node: the bridge, masquerading, empty folders (PROC-4)."""

import fcntl
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from edgecore.pods import poddirs
from edgecore.pods.process.records import Disk
from edgecore.pods.process.sandboxes import BRIDGE
from edgecore.pods.process.shim.network import TABLE

COMMAND_S = 10.0


def remove(data_dir: Path, *, prefix: tuple[str, ...] = ()) -> None:
    """Take it away where no pod is left. ``prefix`` as for the runtime. Raises OSError."""
    folder = data_dir / "process"
    if not folder.is_dir() or any(Disk(folder).pod_folders()):
        return
    lock = os.open(folder / "network.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _network(prefix)
        plans = poddirs.plans_home(data_dir)
        if plans is not None:
            shutil.rmtree(plans, ignore_errors=True)  # of containers that no folder knows any more
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _network(prefix: tuple[str, ...]) -> None:
    """A bridge with a cable is another node's: two data directories on one machine share it, and so may a CNI network."""
    joined = _said((*prefix, "ip", "-o", "link", "show", "master", BRIDGE))
    if joined is not None and not joined.strip():
        _said((*prefix, "ip", "link", "del", BRIDGE))
        _said((*prefix, "nft", "delete", "table", "ip", TABLE))


def _said(argv: tuple[str, ...]) -> str | None:
    """Run a program; what it printed, None when it failed: there is no such bridge, table or program."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_S)  # noqa: S603  fixed programs
        return done.stdout if done.returncode == 0 else None
    return None

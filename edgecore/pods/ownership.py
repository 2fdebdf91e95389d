"""Give a volume to the pod's fsGroup, as kubelet does: group, group rights, and set-group-id on directories."""

import os
import stat
from pathlib import Path

DIRECTORY, FILE, RIGHTS = 0o2770, 0o660, 0o770  # set-group-id may be forbidden to us: a root without it fits, too
ON_ROOT_MISMATCH = "OnRootMismatch"


def give(volume: Path, group: int, policy: str | None) -> bool:
    """Change what has to change; whether the tree was walked. Never follows links. Raises OSError."""
    if policy == ON_ROOT_MISMATCH and _fits(volume.lstat(), group):
        return False
    for root, directories, names in os.walk(volume, topdown=False):
        for name in (*names, *directories):
            _give(Path(root) / name, group)
    _give(volume, group)  # last: an interrupted walk is begun again
    return True


def _fits(status: os.stat_result, group: int) -> bool:
    return status.st_gid == group and status.st_mode & RIGHTS == RIGHTS


def _give(path: Path, group: int) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:  # somebody works in there
        return
    if status.st_gid != group:
        os.chown(path, -1, group, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return
    mode = stat.S_IMODE(status.st_mode)
    wanted = mode | (DIRECTORY if stat.S_ISDIR(status.st_mode) else FILE)
    if wanted != mode or status.st_gid != group:  # a chown takes set-id bits away
        _chmod(path, wanted)


def _chmod(path: Path, mode: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
            set_mode(Path(f"/proc/self/fd/{descriptor}"), mode)
    finally:
        os.close(descriptor)


def set_mode(path: Path, mode: int) -> None:
    """Change the mode; a hardened unit may forbid set-group-id, then the group has its rights without it. Raises OSError."""
    try:
        path.chmod(mode)
    except PermissionError:
        if not mode & stat.S_ISGID:
            raise
        path.chmod(mode & ~stat.S_ISGID)

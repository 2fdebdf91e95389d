"""Give a volume to the pod's fsGroup, as kubelet does: group, group rights, and set-group-id on directories."""

import errno
import os
import stat
from pathlib import Path

DIRECTORY, FILE, RIGHTS = 0o2770, 0o660, 0o770  # set-group-id may be forbidden to us: a root without it fits, too
ON_ROOT_MISMATCH = "OnRootMismatch"


def give(volume: Path, group: int, policy: str | None) -> bool:
    """Change what has to change; whether the tree was walked. Never follows links. Raises OSError."""
    if policy == ON_ROOT_MISMATCH and _fits(volume.lstat(), group):
        return False
    # Each step is taken on a held descriptor: the pod cannot swap a directory for a link to the host's files in between.
    try:
        for _, directories, names, folder in os.fwalk(volume, topdown=False, follow_symlinks=False):
            for name in (*names, *directories):
                _give(name, group, folder)
    except RecursionError as error:
        raise OSError(errno.ELOOP, "directories are nested too deeply", str(volume)) from error
    _give(volume, group)  # last: an interrupted walk is begun again
    return True


def _fits(status: os.stat_result, group: int) -> bool:
    return status.st_gid == group and status.st_mode & RIGHTS == RIGHTS


def _give(path: str | Path, group: int, folder: int | None = None) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:  # somebody works in there
        return
    try:
        status, held = os.fstat(descriptor), Path(f"/proc/self/fd/{descriptor}")
        if status.st_gid != group:
            os.chown(held, -1, group)  # of the link itself, if it is one
        if stat.S_ISLNK(status.st_mode):
            return
        mode = stat.S_IMODE(status.st_mode)
        wanted = mode | (DIRECTORY if stat.S_ISDIR(status.st_mode) else FILE)
        if wanted != mode or status.st_gid != group:  # a chown takes set-id bits away
            set_mode(held, wanted)
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

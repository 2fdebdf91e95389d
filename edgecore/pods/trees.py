"""Removal of directories that a pod has filled: however deep they are, it needs neither recursion nor many descriptors."""

import os
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(top: Path) -> None:
    """Delete the directory and all in it, links as links; right again after a crash. Raises OSError.

    At most three descriptors are open: a directory is left upwards by "..", which is checked to be where we came from.
    """
    parent = os.open(top.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove(parent, top.name)
    finally:
        os.close(parent)


def _remove(parent: int, top: str) -> None:
    here, names = os.open(top, _OPEN, dir_fd=parent), [top]
    above = [_identity(parent)]  # of the directories over ``here``
    try:
        while names:
            below = _first_directory(here)
            if below is not None:
                inner = os.open(below, _OPEN, dir_fd=here)
                above.append(_identity(here))
                names.append(below)
                here, left = inner, here
                os.close(left)
            else:
                outer = os.open("..", _OPEN, dir_fd=here)
                here, left = outer, here
                os.close(left)
                name = names.pop()
                if _identity(here) != above.pop():
                    raise OSError(f"{name} was moved while it was deleted")
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _first_directory(here: int) -> str | None:
    """Delete what is no directory until there is one; return its name, None once all is gone."""
    found = True
    while found:  # what a file system does not show while others are deleted, it shows the next time
        found = False
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    return entry.name
                os.unlink(entry.name, dir_fd=here)
                found = True
    return None

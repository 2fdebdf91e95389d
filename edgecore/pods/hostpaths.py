"""hostPath volumes: check what must be there, make what may be made."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TESTS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644  # whatever the daemon's umask


def check(source: dict[str, Any]) -> None:
    """Make a hostPath ready. Raises ValueError with a sentence, OSError."""
    path, kind = str(source.get("path") or ""), source.get("type") or ""
    found = Path(path)
    if not found.is_absolute() or ".." in found.parts:
        raise ValueError(f"hostPath {path!r} must be absolute and must not contain '..'")
    if kind == "":
        with suppress(OSError):  # what we may not make, the runtime may; it says so otherwise
            if not found.exists():
                _make_dir(found)
        return
    if kind not in _TESTS:
        raise ValueError(f"hostPath type {kind} is not known")
    if kind == "DirectoryOrCreate" and not found.exists():
        try:
            _make_dir(found)
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            return  # a unit that may not write there: the runtime makes the missing directory
    elif kind == "FileOrCreate" and not found.exists():
        descriptor = os.open(found, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        os.fchmod(descriptor, FILE_MODE)
        os.close(descriptor)
    fits, words = _TESTS[kind]
    try:
        mode = found.stat().st_mode
    except FileNotFoundError as error:
        raise ValueError(f"hostPath type check failed: {path} does not exist (type {kind})") from error
    if not fits(mode):
        raise ValueError(f"hostPath type check failed: {path} is not {words}")


def _make_dir(path: Path) -> None:
    made = [path, *(parent for parent in path.parents if not parent.exists())]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        folder.chmod(DIRECTORY_MODE)

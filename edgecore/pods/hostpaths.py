"""hostPath volumes: check what must be there, make what may be made."""

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


def check(source: dict[str, Any]) -> None:
    """Make a hostPath ready. Raises ValueError with a sentence, OSError."""
    path, kind = str(source.get("path") or ""), source.get("type") or ""
    found = Path(path)
    if not found.is_absolute() or ".." in found.parts:
        raise ValueError(f"hostPath {path!r} must be absolute and must not contain '..'")
    if kind == "":
        with suppress(OSError):  # what we may not make, the runtime may; it says so otherwise
            if not found.exists():
                found.mkdir(parents=True, mode=0o755)
        return
    if kind not in _TESTS:
        raise ValueError(f"hostPath type {kind} is not known")
    if kind == "DirectoryOrCreate":
        found.mkdir(parents=True, exist_ok=True, mode=0o755)
    elif kind == "FileOrCreate" and not found.exists():
        os.close(os.open(found, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    fits, words = _TESTS[kind]
    try:
        mode = found.stat().st_mode
    except FileNotFoundError as error:
        raise ValueError(f"hostPath type check failed: {path} does not exist (type {kind})") from error
    if not fits(mode):
        raise ValueError(f"hostPath type check failed: {path} is not {words}")

"""Write small files so that a crash leaves the old content or the new one, never a part."""

import os
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def write(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Replace ``path``; durable on return. Raises OSError."""
    temporary = _write_temporary(path, content, mode)
    try:
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> bool:
    """Write ``path`` unless it exists, whoever else tries at the same time; whether it was us. Raises OSError."""
    temporary = _write_temporary(path, content, mode)
    try:
        os.link(temporary, path)  # the complete file appears at once, and only for the first
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)
    return True


def make_dir(path: Path) -> None:
    """Create a directory that only we may enter. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def sync_dir(path: Path) -> None:
    """Make renames in ``path`` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_temporary(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary

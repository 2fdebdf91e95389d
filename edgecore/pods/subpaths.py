"""Find a path inside a volume without ever leaving it, whatever links its users put there (VOL-3)."""

import errno
import os
import stat
from pathlib import Path

MAX_LINKS = 40  # as the kernel
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Escape(ValueError):
    """The path leads out of its volume."""


def open_inside(root: Path, path: str, *, create: bool) -> int:
    """Return an O_PATH descriptor of ``path`` below ``root``; missing directories are made when ``create``.

    Each step is taken on a held descriptor: nobody can swap a directory for a link in between. Raises Escape, OSError.
    """
    held = [os.open(root, os.O_PATH | os.O_CLOEXEC)]
    todo = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    links = 0
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                _back(held, path)
                continue
            step = _step(held[-1], part, create=create)
            if not stat.S_ISLNK(os.fstat(step).st_mode):
                held.append(step)
                continue
            os.close(step)
            target = os.readlink(part, dir_fd=held[-1])
            links += 1
            if target.startswith("/"):
                raise Escape(f"{path} leads out of its volume by a link to {target}")
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            todo += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
        return os.dup(held[-1])
    finally:
        for descriptor in held:
            os.close(descriptor)


def _back(held: list[int], path: str) -> None:
    if len(held) == 1:
        raise Escape(f"{path} leads out of its volume")
    os.close(held.pop())


def _step(directory: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _PATH, dir_fd=directory)
    except FileNotFoundError:
        if not create:
            raise
    mode = stat.S_IMODE(os.fstat(directory).st_mode) & 0o777
    try:
        os.mkdir(name, mode, dir_fd=directory)
    except FileExistsError:
        return os.open(name, _PATH, dir_fd=directory)
    made = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=directory)
    Path(f"/proc/self/fd/{made}").chmod(mode)  # mkdir went through the umask
    return made

"""Mounts of this machine: what is mounted where, and the three mounts that volumes need (mount(2), no program)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOUNTINFO = Path("/proc/self/mountinfo")
_NOSUID, _NODEV, _BIND, _DETACH, _UMOUNT_NOFOLLOW = 2, 4, 4096, 2, 8  # mount(2), umount2(2)
_SYS_ADMIN = 21  # bit in capabilities(7)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo (proc(5)). ``shared``: what is mounted below it, others see too."""

    path: str
    kind: str
    options: frozenset[str]
    shared: bool


def table(text: str | None = None) -> list[Mounted]:
    """Return the mounts in the order in which they were made. Raises OSError."""
    out = []
    for line in (MOUNTINFO.read_text(errors="surrogateescape") if text is None else text).splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 6 or not right:
            continue
        path = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4])
        shared = any(word.startswith("shared:") for word in fields[6:])
        out.append(Mounted(path, right.split(" ")[0], frozenset(fields[5].split(",")), shared))
    return out


def covering(path: Path, mounted: list[Mounted] | None = None) -> Mounted | None:
    """Return the mount that ``path`` lies on; ``path`` itself need not exist."""
    best = None
    real = os.path.realpath(path)
    for entry in table() if mounted is None else mounted:
        inside = entry.path in {"/", real} or real.startswith(entry.path + "/")
        if inside and (best is None or len(entry.path) >= len(best.path)):
            best = entry
    return best


def below(path: Path) -> list[str]:
    """Return the mount points at or below ``path``, the one to unmount first first."""
    real = os.path.realpath(path)
    return [m.path for m in reversed(table()) if m.path == real or m.path.startswith(real + "/")]


def in_host_namespace() -> bool:
    """Whether our mounts are those of the machine's first process."""
    try:
        return Path("/proc/self/ns/mnt").readlink() == Path("/proc/1/ns/mnt").readlink()
    except OSError:
        return False


def shared(path: Path) -> bool:
    """Whether what is mounted below ``path`` also appears in mount namespaces that were copied from this one."""
    try:
        found = covering(path)
    except OSError:
        return False
    return found is not None and found.shared


def permitted() -> bool:
    """Whether this process may mount at all (CAP_SYS_ADMIN)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _SYS_ADMIN & 1)
    return False


def tmpfs(path: Path, size_bytes: int = 0) -> None:
    """Mount an empty tmpfs on ``path``; 0: half of the memory. Raises OSError."""
    options = "mode=0777" + (f",size={size_bytes}" if size_bytes else "")
    _mount("tmpfs", str(path), "tmpfs", _NOSUID | _NODEV, options)


def bind(source: str, target: Path) -> None:
    """Make ``target`` show what is at ``source``. Raises OSError."""
    _mount(source, str(target), "", _BIND, "")


def unmount(path: str) -> None:
    """Take the mount away now; who still uses it keeps it until then. Raises OSError."""
    libc = _libc()
    if libc.umount2(os.fsencode(path), _DETACH | _UMOUNT_NOFOLLOW) != 0:
        raise _error(path)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    libc = _libc()
    words = [os.fsencode(word) for word in (source, target, kind)]
    if libc.mount(*words, flags, options.encode() or None) != 0:
        raise _error(target)


def _libc() -> Any:
    import ctypes  # noqa: PLC0415  loaded by the few nodes that mount

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
    return libc


def _error(path: str) -> OSError:
    import ctypes  # noqa: PLC0415

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)

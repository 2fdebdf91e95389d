"""What a doctor says: verdicts, each with a name, a level, one sentence and the next command to type, and their page."""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec

from proto.kit.database import DatabaseDamaged, connect, quick_check
from proto.kit.errors import SkerryError

Level = Literal["OK", "Warning", "Error"]
PAGE_VERSION = 1


class Check(msgspec.Struct, frozen=True):
    """One verdict. ``next`` is the command to type, "" when nothing is to be done."""

    name: str
    level: Level
    message: str
    next: str = ""


def failed(checks: Sequence[Check]) -> bool:
    """Whether a doctor that found ``checks`` should exit with an error."""
    return any(check.level == "Error" for check in checks)


def page(checks: Sequence[Check]) -> dict[str, Any]:
    """The verdicts for scripts."""
    return {"version": PAGE_VERSION, "ok": not failed(checks), "checks": list(checks)}


def render(checks: Sequence[Check]) -> str:
    """One line per check, and under each that is not OK the command to type."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:<8} {check.name:<{width}}  {check.message}")
        if check.level != "OK" and check.next:
            lines.append(f"{'':<8} {'':<{width}}  next: {check.next}")
    errors = sum(check.level == "Error" for check in checks)
    warnings = sum(check.level == "Warning" for check in checks)
    return "\n".join([*lines, "", f"{len(checks)} checks, {errors} errors, {warnings} warnings"])


def directory(path: Path, *, missing: Check) -> Check | None:
    """What is wrong with a data directory: ``missing``, no directory at all, or not ours. None: nothing."""
    name = missing.name
    if path.exists() and not path.is_dir():
        return Check(name, "Error", f"{path} is no directory", f"ls -ld {path}  # and name another with --data-dir")
    if not path.is_dir():
        return missing
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        sentence = f"{path} cannot be read and written by this user"
        return Check(name, "Error", sentence, f"sudo chown -R $(id -u) {path}")
    return None


def database(name: str, path: Path, *, mend: str) -> Check:
    """SQLite's own verdict on a file; ``mend`` is the command for a damaged one."""
    try:
        with closing(connect(path, read_only=True)) as conn:
            quick_check(conn, path)
    except DatabaseDamaged as error:
        return Check(name, "Error", str(error), mend)
    except (SkerryError, OSError) as error:
        return Check(name, "Error", str(error), f"ls -l {path}")
    return Check(name, "OK", f"quick_check of {path.name} is ok")


def port(name: str, what: str, host: str, number: int, *, key: str) -> Check:
    """Whether ``what`` could listen there now; ``key`` is the setting that names another port."""
    where = f"{host}:{number}"
    try:
        family = socket.getaddrinfo(host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, number))
    except socket.gaierror as error:
        return Check(name, "Error", f"{what} cannot listen on {where}: {error.strerror}", f"getent hosts {host}")
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "it is taken by another process" if taken else error.strerror or str(error)
        find = f"ss -ltnp 'sport = :{number}'  # or choose another with --set {key}=PORT"
        return Check(name, "Error", f"{what} cannot listen on {where}: {reason}", find)
    return Check(name, "OK", f"{where} is free for {what}")

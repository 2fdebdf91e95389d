"""The last steps of every process of a container: who it is, what it may do, and what it runs."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # without its enums
import fcntl
import os
import struct
import termios

from edgecore.pods.process.shim import linux, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Json = dict[str, Any]
NOT_FOUND = 127
TIOCGPTPEER, TIOCSPTLCK = 0x5441, 0x40045431
NAMESPACES = (
    ("ipc", linux.CLONE_NEWIPC),
    ("uts", linux.CLONE_NEWUTS),
    ("net", linux.CLONE_NEWNET),
    ("pid", linux.CLONE_NEWPID),
    ("mnt", linux.CLONE_NEWNS),
)
MAX_USERS_BYTES = 1 << 20
FALLBACK_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    """Why the program does not run; the text is for people."""


def namespaces(pid: int) -> None:
    """Enter the namespaces of a process; the process id's counts for the next fork only."""
    fds = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in NAMESPACES]
    for fd, flag in fds:
        linux.setns(fd, flag)
        os.close(fd)


def terminal(console: int, uid: int) -> None:
    """Make a terminal of the container the standard streams; its other end goes through the socket ``console``."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    os.fchown(slave, uid, -1)
    import socket  # noqa: PLC0415  few containers have a terminal

    with socket.socket(fileno=console) as sock:
        socket.send_fds(sock, [b"m"], [master])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def run(plan: Json, argv: list[str], env: dict[str, str], console: int, error_fd: int) -> NoReturn:
    """Become the program. Called in the container's namespaces, below its root; ends the process on failure, telling ``error_fd``."""
    try:
        user = Identity(plan)
        if console >= 0:
            terminal(console, user.uid)
        _close_all_but(error_fd)
        _work_in(plan.get("cwd") or "/", user)
        _restrict(plan, user)
        env.setdefault("HOME", user.home)
        _execute(argv, env)
    except Failed as error:
        said = str(error)
    except KeyError as error:
        said = f"no seccomp profile for this machine's {error}"
    except OSError as error:
        said = f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    except Exception as error:  # noqa: BLE001  nobody above could tell it
        said = f"the container could not be started: {error!r}"
    os.write(error_fd, said.encode(errors="replace")[:4000])
    os._exit(NOT_FOUND)


class Identity:
    """Numbers of the user, its groups and its home, looked up in the container's own files. Raises Failed."""

    def __init__(self, plan: Json) -> None:
        name, _, group = str(plan.get("user") or "").partition(":")
        uid, gid = plan.get("uid"), plan.get("gid")
        users = _table("/etc/passwd", 6)
        if uid is None and name.isdecimal():
            uid = int(name)
        row = next((r for r in users if (r[0] == name if uid is None else r[2] == str(uid))), None)
        if uid is None and name:
            if row is None:
                raise Failed(f"user {name!r} is not in the image's /etc/passwd")
            uid = _number(row[2])
        self.uid = int(uid or 0)
        groups = _table("/etc/group", 4)
        if gid is None and group:
            gid = int(group) if group.isdecimal() else self._group(groups, group)
        self.gid = int(gid) if gid is not None else _number(row[3]) if row else 0
        own = [_number(r[2]) for r in groups if row and row[0] in r[3].split(",")]
        self.groups = list(dict.fromkeys([self.gid, *own, *plan.get("groups", ())]))
        self.home = row[5] if row and row[5] else "/root" if self.uid == 0 else "/"

    @staticmethod
    def _group(groups: list[list[str]], name: str) -> int:
        found = next((r for r in groups if r[0] == name), None)
        if found is None:
            raise Failed(f"group {name!r} is not in the image's /etc/group")
        return _number(found[2])


def default_signals() -> None:
    """Undo what Python sets for itself: a program inherits what is ignored."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _restrict(plan: Json, user: Identity) -> None:
    """Give away what the program may not have. The order matters: each step needs what a later one takes."""
    os.umask(0o022)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)  # bubblewrap's own way; who comes by exec gets no more
    keep = int(plan["keep"])
    if keep >= 0:
        linux.bound_capabilities(keep)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if user.uid == 0 and keep >= 0:
        linux.keep_capabilities(keep & linux.effective_capabilities())
    if plan.get("leashed"):
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it away
    default_signals()
    if plan.get("seccomp"):
        linux.install_seccomp(seccomp.program())


def _work_in(folder: str, user: Identity) -> None:
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, mode=0o755, exist_ok=True)
            os.chown(folder, user.uid, user.gid)
        os.chdir(folder)
    except OSError as error:
        raise Failed(f"working directory {folder}: {error.strerror}") from error


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    name = argv[0]
    tried = [name] if "/" in name else [f"{p}/{name}" for p in env.get("PATH", FALLBACK_PATH).split(":") if p]
    refused: OSError | None = None
    for path in tried:
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = error
            if "/" in name:
                break
    if refused is not None:
        raise Failed(f"exec: {name!r}: {refused.strerror}")
    raise Failed(
        f"exec: {name!r}: {'no such file or directory' if '/' in name else 'executable file not found in $PATH'}"
    )


def _close_all_but(kept: int) -> None:
    os.set_inheritable(kept, False)
    os.closerange(3, kept)
    os.closerange(kept + 1, 65536 if not os.path.isdir("/proc/self/fd") else _highest() + 1)


def _highest() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


def _table(path: str, columns: int) -> list[list[str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        rows = [line.split(":") for line in file.read(MAX_USERS_BYTES).splitlines()]
    return [row for row in rows if len(row) >= columns]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0

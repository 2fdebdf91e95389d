"""What hosts of tests leave running: found by namespace, parent and environment, ended by pid; cgroups; this machine's ``ip``."""

import contextlib
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

OWNER = "SKERRY_TEST_OWNER"  # in the environment of all that a host starts: pid and start time of the test process
KILL_ROUNDS, KILL_PAUSE_S = 200, 0.02
CGROUPS = Path("/sys/fs/cgroup")


def ip(*argv: str) -> None:
    """Run ``ip`` on this machine."""
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {argv}: {done.stderr}"


def cgroup_folders(path: str) -> list[Path]:
    """Every folder of the cgroup ``path``: one for each hierarchy of version 1, or the one of version 2."""
    return [found for hierarchy in (CGROUPS, *CGROUPS.glob("*/")) if (found := hierarchy / path.lstrip("/")).is_dir()]


def remove_cgroup(path: str) -> bool:
    """Remove ``path`` with all below it; False while a process is still in it."""
    for top in cgroup_folders(path):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    return not cgroup_folders(path)


def environment() -> dict[str, str]:
    """The environment of what a host starts."""
    return {**os.environ, OWNER: f"{os.getpid()}.{_started(os.getpid())}"}


@functools.cache
def end_leftovers() -> None:
    """End what hosts of a killed test process left behind, and remove their cgroups."""

    def orphaned(pid: int) -> bool:
        with contextlib.suppress(OSError):
            for setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                name, _, value = setting.decode(errors="replace").partition("=")
                if name == OWNER:
                    owner, _, started = value.partition(".")
                    return _started(int(owner)) != started
        return False

    end_all(lambda: with_children(orphaned))
    for folder in (*CGROUPS.glob("skerry-*-*"), *CGROUPS.glob("*/skerry-*-*")):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            end_all(lambda path=f"/{folder.name}": cgroup_processes(path))  # type: ignore[misc]
            remove_cgroup(f"/{folder.name}")


def with_children(chosen: Callable[[int], bool]) -> list[int]:
    """The chosen processes and all that came from them, youngest first; never this process."""
    parents = _parents()
    found = {pid for pid in parents if chosen(pid)} - {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found, reverse=True)


def end_all(listed: Callable[[], list[int]]) -> None:
    """SIGKILL what is listed. Stopped first, until the list no longer grows: what is stopped cannot make children."""
    stopped: set[int] = set()
    while more := {pid for pid in listed() if alive(pid)} - stopped:
        for pid in more:
            _signal(pid, signal.SIGSTOP)
        stopped |= more
    for pid in stopped:
        _signal(pid, signal.SIGKILL)
    for _ in range(KILL_ROUNDS):
        if not any(map(alive, stopped)):
            return
        threading.Event().wait(KILL_PAUSE_S)
    raise AssertionError(f"processes outlive their host: {listed()}")


def cgroup_processes(path: str) -> list[int]:
    """Every process in the cgroup ``path`` or below."""
    files = (file for folder in cgroup_folders(path) for file in folder.rglob("cgroup.procs"))
    found: set[int] = set()
    for file in files:
        with contextlib.suppress(OSError):
            found |= set(map(int, file.read_text().split()))
    return sorted(found)


def alive(pid: int) -> bool:
    return state(Path(f"/proc/{pid}/stat")) not in "ZX"


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def namespace(pid: int, kind: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return f"none of {pid}"


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def state(stat: Path) -> str:
    """The state of a process or thread by its stat file, as one letter; Z when it is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"

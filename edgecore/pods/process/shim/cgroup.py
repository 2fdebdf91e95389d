"""A container's cgroup: in each hierarchy of v1 that matters, or in the one of v2; hybrid machines count as v1 (PROC-6)."""

import errno
import os
import signal

WANTED = ("cpu", "cpuacct", "memory", "pids", "freezer", "devices", "blkio")
CONTROLLERS_V2 = ("cpu", "memory", "pids")
FREEZE_ROUNDS = 100
REMOVE_ROUNDS = 20


class Hierarchies:
    """Where controllers are: ``v1`` controller -> mount point; ``v2`` the unified mount when it has the controllers itself."""

    def __init__(self, mountinfo: str = "/proc/self/mountinfo") -> None:
        self.v1: dict[str, str] = {}
        self.v2 = ""
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                left, _, right = line.partition(" - ")
                place, words = left.split(" ")[4], right.split(" ")
                if words[0] == "cgroup":
                    for name in words[2].strip().split(","):
                        if name in WANTED:
                            self.v1.setdefault(name, place)
                elif words[0] == "cgroup2" and not self.v2 and "memory" in _read(f"{place}/cgroup.controllers").split():
                    self.v2 = place

    def folders(self, path: str) -> list[str]:
        """Return the cgroup's folders, each once."""
        if self.v2 and "memory" not in self.v1:
            return [self.v2 + path]
        return list(dict.fromkeys(place + path for place in self.v1.values()))

    def folder(self, controller: str, path: str) -> str:
        """Return where ``controller`` is set for the cgroup; "" for nowhere."""
        if self.v2 and "memory" not in self.v1:
            return self.v2 + path
        return self.v1[controller] + path if controller in self.v1 else ""

    @property
    def version(self) -> int:
        return 2 if self.v2 and "memory" not in self.v1 else 1 if "memory" in self.v1 else 0


def make(where: Hierarchies, path: str) -> None:
    """Make the cgroup with all above it; idempotent. Raises OSError."""
    if where.version == 2:
        place = where.v2
        for part in path.strip("/").split("/"):
            for name in CONTROLLERS_V2:
                _try(f"{place}/cgroup.subtree_control", f"+{name}")
            place = f"{place}/{part}"
            os.makedirs(place, exist_ok=True)
        return
    for folder in where.folders(path):
        os.makedirs(folder, exist_ok=True)


def limit(where: Hierarchies, path: str, limits: dict[str, int]) -> list[str]:
    """Set what of ``limits`` (cpu_shares, cpu_quota_us, cpu_period_us, memory_bytes, pids) is above 0; return what the kernel refused."""
    cpu, memory, pids = (where.folder(name, path) for name in ("cpu", "memory", "pids"))
    shares, quota, period = (limits.get(name, 0) for name in ("cpu_shares", "cpu_quota_us", "cpu_period_us"))
    size, count = limits.get("memory_bytes", 0), limits.get("pids", 0)
    wanted: list[tuple[str, str]] = []
    if where.version == 2:
        weight = 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142
        wanted += [(f"{cpu}/cpu.weight", str(weight))] if shares else []
        wanted += [(f"{cpu}/cpu.max", f"{quota if quota > 0 else 'max'} {period or 100_000}")] if quota else []
        wanted += [(f"{memory}/memory.max", str(size))] if size > 0 else []
    else:
        wanted += [(f"{cpu}/cpu.shares", str(shares))] if cpu and shares else []
        if cpu and quota:
            wanted += [(f"{cpu}/cpu.cfs_period_us", str(period or 100_000)), (f"{cpu}/cpu.cfs_quota_us", str(quota))]
        wanted += [(f"{memory}/memory.limit_in_bytes", str(size))] if memory and size > 0 else []
    wanted += [(f"{pids}/pids.max", str(count))] if pids and count > 0 else []
    return [f"{place}: {said}" for place, text in wanted if (said := _try(place, text))]


def join(folders: list[str]) -> None:
    """Move this process in. Raises OSError."""
    for folder in folders:
        with open(f"{folder}/cgroup.procs", "w", encoding="utf-8") as procs:
            procs.write("0")


def processes(folders: list[str]) -> set[int]:
    """Return every process in the cgroup."""
    return {int(word) for folder in folders for word in _read(f"{folder}/cgroup.procs").split()}


def kill(folders: list[str]) -> bool:
    """SIGKILL all that is in the cgroup, again until nothing is left; returns False when something would not go."""
    frozen = [folder for folder in folders if _try(f"{folder}/freezer.state", "THAWED") == ""]
    for folder in folders:
        _try(f"{folder}/cgroup.kill", "1")
    for _ in range(FREEZE_ROUNDS):
        left = processes(folders)
        if not left:
            return True
        for pid in left:  # a fork between two looks is seen by the next look
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        for folder in frozen:
            _try(f"{folder}/freezer.state", "THAWED")
        _pause()
    return False


def remove(folders: list[str]) -> None:
    """Remove the cgroup itself; what is still used after a moment (the dead that nobody has collected) stays for the next try."""
    for folder in folders:
        for _ in range(REMOVE_ROUNDS):
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    break
                _pause()
            else:
                break


def out_of_memory(where: Hierarchies, path: str) -> int:
    """Return how many processes of the cgroup the kernel killed for its memory limit."""
    folder = where.folder("memory", path)
    text = _read(f"{folder}/memory.events" if where.version == 2 else f"{folder}/memory.oom_control")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def usage(where: Hierarchies, path: str) -> tuple[int, int]:
    """Return (CPU in nanoseconds, working set in bytes)."""
    memory = where.folder("memory", path)
    stat = dict(line.split(" ", 1) for line in _read(f"{memory}/memory.stat").splitlines() if " " in line)
    if where.version == 2:
        told = dict(line.split(" ", 1) for line in _read(f"{memory}/cpu.stat").splitlines() if " " in line)
        used, idle = int(_read(f"{memory}/memory.current") or 0), int(stat.get("inactive_file", 0))
        return int(told.get("usage_usec", 0)) * 1000, max(0, used - idle)
    used = int(_read(f"{memory}/memory.usage_in_bytes") or 0) if memory else 0
    cpu = where.folder("cpuacct", path)
    return int(_read(f"{cpu}/cpuacct.usage") or 0) if cpu else 0, max(0, used - int(stat.get("total_inactive_file", 0)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _try(path: str, text: str) -> str:
    """Write; return why not."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or str(error)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)
    return ""


def _pause() -> None:
    import select  # noqa: PLC0415  killing is rare

    select.select([], [], [], 0.01)

"""Readings of this machine from /proc, /sys and statvfs. Each returns None where the machine has no such thing."""

import os
from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")
MAX_READ_BYTES = 64 << 10


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_READ_BYTES).decode("ascii", "replace")
    except OSError:
        return ""


def load(proc: Path = PROC) -> tuple[float, float, float] | None:
    """Load averages over 1, 5 and 15 minutes."""
    words = _text(proc / "loadavg").split()
    return (float(words[0]), float(words[1]), float(words[2])) if len(words) >= 3 else None


def memory_bytes(proc: Path = PROC) -> tuple[int, int] | None:
    """(total, available) in bytes."""
    fields = dict(line.split(":", 1) for line in _text(proc / "meminfo").splitlines() if ":" in line)
    try:
        return int(fields["MemTotal"].split()[0]) * 1024, int(fields["MemAvailable"].split()[0]) * 1024
    except (KeyError, ValueError, IndexError):
        return None


def disk_bytes(path: str) -> tuple[int, int] | None:
    """(total, free for ordinary users) in bytes of the file system that holds ``path``."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def network_bytes(interface: str = "", proc: Path = PROC) -> tuple[int, int] | None:
    """(received, sent) since the start of the machine; all interfaces but loopback when ``interface`` is empty."""
    received = sent = 0
    seen = False
    for line in _text(proc / "net" / "dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) < 9 or (name.strip() != interface if interface else name.strip() == "lo"):
            continue
        received, sent, seen = received + int(words[0]), sent + int(words[8]), True
    return (received, sent) if seen else None


def temperature_c(sys: Path = SYS) -> float | None:
    """The hottest sensor in degrees Celsius."""
    found: list[float] = []
    patterns = ("class/thermal/thermal_zone*/temp", "class/hwmon/hwmon*/temp*_input")
    for pattern in patterns:
        for path in sorted(sys.glob(pattern)):
            try:
                found.append(int(_text(path)) / 1000.0)
            except ValueError:
                continue
    return max(found) if found else None


def uptime_s(proc: Path = PROC) -> int | None:
    words = _text(proc / "uptime").split()
    return int(float(words[0])) if words else None

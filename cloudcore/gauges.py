"""Numbers about the daemon itself, asked at scrape time."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from proto.kit import x509
from proto.kit.errors import MalformedMessage
from proto.kit.metrics import Metrics
from proto.kit.version import VERSION

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def register(metrics: Metrics, data_dir: Path, *, now: Callable[[], datetime]) -> None:
    """Add the daemon's gauges to ``metrics``."""
    metrics.counter("skerry_cloud_info", "Always 1; the label says the version", ("version",)).inc(VERSION)
    metrics.gauge("skerry_cloud_resident_bytes", "Resident memory of cloudcore", source=resident_bytes)
    metrics.gauge(
        "skerry_cloud_database_bytes",
        "Size of the database files in the data directory, with their logs",
        source=lambda: float(sum(_size(path) for path in data_dir.glob("*.db*"))),
    )
    metrics.gauge(
        "skerry_cloud_disk_free_bytes", "Free bytes on the disk of the data directory", source=lambda: _free(data_dir)
    )
    metrics.gauge(
        "skerry_cloud_certificate_left_seconds",
        "Seconds until the server certificate ends",
        source=lambda: _left_s(data_dir / "pki" / "server.crt", now()),
    )


def resident_bytes() -> float:
    """Return this process's resident memory, 0 where the kernel does not say."""
    with suppress(OSError, ValueError, IndexError):
        return float(int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_BYTES)
    return 0.0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _free(data_dir: Path) -> float:
    with suppress(OSError):
        found = os.statvfs(data_dir)
        return float(found.f_bavail * found.f_frsize)
    return 0.0


def _left_s(path: Path, now: datetime) -> float:
    with suppress(OSError, MalformedMessage):
        return (x509.read_file(path).not_after - now).total_seconds()
    return 0.0

"""Metrics of the daemon itself: memory, disk, database, fencing."""

from collections.abc import Callable
from pathlib import Path

from edgecore.data_dir import DataDir
from edgecore.status import disk_summary
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.kit.version import VERSION
from proto.link.edge import LinkStatus

STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096


def register(metrics: Metrics, directory: DataDir, db: Database, link: Callable[[], LinkStatus]) -> None:
    """Add them all to ``metrics``; each is asked at scrape time."""
    gauge = metrics.gauge
    gauge("skerry_edge_resident_bytes", "Resident memory of edgecore.", source=resident_bytes)
    gauge(
        "skerry_edge_disk_free_bytes",
        "Free bytes on the disk of the data directory.",
        source=lambda: disk_summary(directory)["free_bytes"],
    )
    gauge(
        "skerry_edge_database_bytes",
        "Size of edge.db with its log.",
        source=lambda: disk_summary(directory)["database_bytes"],
    )
    gauge("skerry_edge_commits", "Commits since start.", source=lambda: db.commits)
    gauge("skerry_edge_transactions", "Transactions since start.", source=lambda: db.transactions)
    gauge("skerry_edge_outbox_bytes", "Bytes that wait for the cloud.", source=lambda: link().pending_bytes)
    gauge("skerry_edge_fenced", "1 while the cloud refuses this disk as a copy.", source=lambda: float(link().fenced))
    metrics.counter("skerry_edge_info", "Always 1; the label says the version.", ["version"]).inc(VERSION)


def resident_bytes() -> float:
    """Resident memory of this process; 0 where /proc is not."""
    try:
        return float(STATM.read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0.0

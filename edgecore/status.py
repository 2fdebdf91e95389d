"""The status document: what ``/status`` answers and what ``edgecore status`` shows. Its ``version`` grows on a change."""

import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from devicetwin.mappers.host.mapper import label_of
from edgecore import certificate, offline
from edgecore.admin import live_status
from edgecore.data_dir import DataDir
from edgecore.kinds import DEVICE, DEVICE_STATUS
from edgecore.settings import Settings
from kubeapi.kinds import POD
from proto.kit.clock import Clock, rfc3339
from proto.link.edge import LinkStatus

VERSION = 1
NO_LINK: dict[str, Any] = {
    "connected": False,
    "epoch": 0,
    "since": "",
    "pending_states": 0,
    "pending_messages": 0,
    "pending_bytes": 0,
    "fenced": False,
    "last_error": "",
}


def gather(directory: DataDir, settings: Settings, clock: Clock) -> dict[str, Any]:
    """The daemon's own document when it answers, else the same document from disk."""
    running, live = live_status(directory)
    if live is not None:
        return live
    daemon = {"running": running is not None, "pid": running.pid if running else 0, "since": ""}
    link = NO_LINK | (offline.link_summary(directory) or {}) | {"broker": settings.cloud.broker}
    return document(
        node=settings.node,
        daemon=daemon,
        link=link,
        devices=offline.objects(directory, DEVICE),
        statuses=offline.objects(directory, DEVICE_STATUS),
        pods=offline.objects(directory, POD),
        directory=directory,
        now=clock.wall(),
    )


def document(  # noqa: PLR0913  one argument for each part of it
    *,
    node: str,
    daemon: dict[str, Any],
    link: dict[str, Any],
    devices: Iterable[dict[str, Any]],
    statuses: Iterable[dict[str, Any]],
    pods: Iterable[dict[str, Any]],
    directory: DataDir,
    now: datetime,
    local_api: dict[str, Any] | None = None,
    runtime: str = "",
) -> dict[str, Any]:
    """Assemble the document (pure but for certificate and disk)."""
    devices, statuses = list(devices), list(statuses)
    return {
        "version": VERSION,
        "node": node,
        "daemon": daemon,
        "link": link,
        "devices": device_summary(devices, statuses),
        "pods": {**pod_summary(pods), "runtime": runtime},
        "label": label_of(devices, statuses),
        "certificate": certificate_summary(directory.certificate, now),
        "disk": disk_summary(directory),
        "local_api": local_api or {"port": 0, "pod_address": ""},
        "writes": offline.writes_summary(directory),
    }


def link_document(status: LinkStatus, broker: str, clock: Clock) -> dict[str, Any]:
    """The link's status for people: ``since`` as a time instead of monotonic seconds."""
    since = clock.wall() - timedelta(seconds=clock.now_s() - status.since_s)
    return {
        "connected": status.connected,
        "epoch": status.epoch,
        "since": rfc3339(since),
        "pending_states": status.pending_states,
        "pending_messages": status.pending_messages,
        "pending_bytes": status.pending_bytes,
        "fenced": status.fenced,
        "last_error": status.last_error,
        "broker": broker,
        "streams": status.streams,
    }


def certificate_summary(path: Path, now: datetime) -> dict[str, Any] | None:
    """Whose, until when; None without a certificate."""
    found = certificate.try_read(path)
    if found is None:
        return None
    return {
        "subject": found.common_name,
        "not_after": rfc3339(found.not_after),
        "days_left": round(certificate.days_left(found, now), 2),
    }


def disk_summary(directory: DataDir) -> dict[str, int]:
    try:
        usage = os.statvfs(directory.path)
    except OSError:
        return {"free_bytes": 0, "database_bytes": 0}
    database = directory.database
    files = (database, database.with_name(database.name + "-wal"))
    return {
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "database_bytes": sum(file.stat().st_size for file in files if file.exists()),
    }


def device_summary(devices: Iterable[dict[str, Any]], statuses: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many devices there are and in which sync state; one without a status yet is pending."""
    states = {_name(status): sync_state(status) for status in statuses}
    out = {"total": 0, "synced": 0, "pending": 0, "stale": 0}
    for device in devices:
        out["total"] += 1
        out[states.get(_name(device), "Pending").lower()] += 1
    return out


def pod_summary(pods: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many pods there are, how many run and are ready, have ended well, or are in trouble (all others)."""
    out = {"total": 0, "ready": 0, "ended": 0, "troubled": 0}
    for pod in pods:
        status = pod.get("status") or {}
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
        out["total"] += 1
        out["ready" if ready else "ended" if status.get("phase") == "Succeeded" else "troubled"] += 1
    return out


def sync_state(status: dict[str, Any]) -> str:
    """``Synced``, ``Pending`` or ``Stale``, from the conditions of a DeviceStatus."""
    conditions = {item["type"]: item["status"] for item in status.get("status", {}).get("conditions", [])}
    for state in ("Stale", "Pending", "Synced"):
        if conditions.get(state) == "True":
            return state
    return "Pending"


def _name(obj: dict[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

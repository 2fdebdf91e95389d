"""The doctor: every check has a name, a level, one sentence and the next command to type. It changes nothing."""

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edgecore import certificate, cloud_time, offline
from edgecore.data_dir import DataDir, Running
from edgecore.localapi import address
from edgecore.reach import Reach
from edgecore.settings import Settings
from proto.kit import checkup
from proto.kit.checkup import Check, Level

DAYS_WARNING = 14.0  # renewal starts at 70 % of life: with 14 days left it has failed for long
CLOCK_SLACK = timedelta(minutes=5)
DISK_ERROR_BYTES = 16 << 20  # below it SQLite cannot commit a burst
BACKLOG_WARNING_RATIO = 0.8
ANSWER_S = 2.0  # for a listener on this machine


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at. ``live`` is the running daemon's own status, None when it does not answer."""

    directory: DataDir
    settings: Settings | None
    settings_error: str
    running: Running | None
    live: dict[str, Any] | None
    now: datetime
    pending: dict[str, Any] | None = None

    @property
    def flag(self) -> str:
        return f"--data-dir {self.directory.path}"


def examine(patient: Patient) -> list[Check]:
    """Run every check that makes sense, in the order in which a person would mend things."""
    checks: list[Callable[[Patient], list[Check]]] = [
        check_data_dir,
        check_settings,
        check_disk,
        check_database,
        check_identity,
        check_clock,
        check_cloud,
        check_ports,
        check_link,
        check_backlog,
        check_pods,
        check_local_api,
    ]
    return [verdict for check in checks for verdict in check(patient)]


def check_data_dir(patient: Patient) -> list[Check]:
    name, path = "data directory", patient.directory.path
    join = f"edgecore join --cloud URL --token TOKEN --node NAME {patient.flag}"
    wrong = checkup.directory(path, missing=Check(name, "Error", f"{path} does not exist", join))
    if wrong is not None:
        return [wrong]
    key = patient.directory.key
    for file in (path, key):
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            wanted = "700" if file.is_dir() else "600"
            level: Level = "Error" if file == key else "Warning"
            return [Check(name, level, f"{file} is open to other users", f"chmod {wanted} {file}")]
    return [Check(name, "OK", str(path))]


def check_settings(patient: Patient) -> list[Check]:
    if patient.settings is None:
        return [Check("settings", "Error", patient.settings_error, f"edgecore run --print-settings {patient.flag}")]
    return [Check("settings", "OK", "every key is known and valid")]


def check_disk(patient: Patient) -> list[Check]:
    try:
        usage = os.statvfs(patient.directory.path)
    except OSError:
        return []
    free = usage.f_bavail * usage.f_frsize
    low = patient.settings.node_options.disk_low_bytes if patient.settings else DISK_ERROR_BYTES
    text = f"{free >> 20} MiB free"
    if free < DISK_ERROR_BYTES:
        return [
            Check(
                "disk space",
                "Error",
                f"{text}: nothing more can be acknowledged",
                f"du -xh --max-depth=2 {patient.directory.path} / | sort -h | tail",
            )
        ]
    if free < low:
        return [
            Check(
                "disk space",
                "Warning",
                f"{text}, less than node_options.disk_low_bytes",
                "du -xh --max-depth=2 / | sort -h | tail",
            )
        ]
    quota = patient.settings.link.message_quota_bytes if patient.settings else 0
    if free < quota:
        return [
            Check(
                "disk space",
                "Warning",
                f"{text}, less than link.message_quota_bytes ({quota >> 20} MiB) may need during a long outage",
                f"edgecore run --print-settings {patient.flag}",
            )
        ]
    return [Check("disk space", "OK", text)]


def check_database(patient: Patient) -> list[Check]:
    name, path = "database", patient.directory.database
    if not path.exists():
        return [Check(name, "OK", "not made yet; the daemon makes it at its first start")]
    return [checkup.database(name, path, mend=f"edgecore reset {patient.flag}")]


def check_identity(patient: Patient) -> list[Check]:
    name, directory = "certificate", patient.directory
    again = f"edgecore join --cloud URL --token TOKEN --node NAME {patient.flag}"
    if not directory.joined():
        return [Check(name, "Error", "this node has not joined a cloud", again)]
    try:
        found = certificate.read(directory.certificate)
    except certificate.BadCertificate as error:
        return [Check(name, "Error", str(error), again)]
    left = certificate.days_left(found, patient.now)
    out = []
    if left <= 0:
        out.append(Check(name, "Error", f"expired at {found.not_after:%Y-%m-%d %H:%M} UTC", again))
    elif left < DAYS_WARNING and left < (found.not_after - found.not_before).total_seconds() / 86400 * 0.1:
        out.append(
            Check(name, "Warning", f"{left:.1f} days left: renewal does not succeed", f"edgecore status {patient.flag}")
        )
    else:
        out.append(Check(name, "OK", f"{found.common_name}, {left:.1f} days left"))
    if left > 0 and found.not_before <= patient.now:
        out.append(_check_ca(patient, again))
    return out


def _check_ca(patient: Patient, again: str) -> Check:
    directory = patient.directory
    try:
        certificate.verify(directory.certificate, directory.key, directory.ca)
    except certificate.BadCertificate as error:
        return Check("CA", "Error", f"node certificate, key and CA do not fit together: {error}", again)
    return Check("CA", "OK", "node certificate, key and CA fit together")


def check_clock(patient: Patient) -> list[Check]:
    name, now, mend = "clock", patient.now, "timedatectl set-ntp true"
    found = certificate.try_read(patient.directory.certificate)
    if found is not None and now < found.not_before:
        return [
            Check(
                name,
                "Error",
                f"{now:%Y-%m-%d %H:%M} UTC is before the certificate begins ({found.not_before:%Y-%m-%d %H:%M}): the clock is behind",
                mend,
            )
        ]
    newest = _newest_file(patient.directory)
    if newest is not None and newest - now > CLOCK_SLACK:
        return [
            Check(
                name,
                "Error",
                f"{now:%Y-%m-%d %H:%M} UTC is before our own last write ({newest:%Y-%m-%d %H:%M}): the clock is behind",
                mend,
            )
        ]
    return [Check(name, "OK", f"{now:%Y-%m-%d %H:%M:%S} UTC")]


def _newest_file(directory: DataDir) -> datetime | None:
    stamps = [
        file.stat().st_mtime
        for file in (directory.database, directory.settings, directory.certificate)
        if file.exists()
    ]
    return datetime.fromtimestamp(max(stamps), UTC) if stamps else None


def check_cloud(patient: Patient) -> list[Check]:
    """DNS, TCP, TLS with the server name, and what the broker answers to CONNECT."""
    settings = patient.settings
    if settings is None:
        return []
    if not settings.cloud.broker:
        return [
            Check(
                "cloud address",
                "Error",
                "cloud.broker is not set",
                f"edgecore join --cloud URL --token TOKEN --node NAME {patient.flag}",
            )
        ]
    found = Reach(patient.directory, settings, connected=_connected(patient)).look()
    if settings.cloud.join and patient.directory.joined():
        found += cloud_time.look(patient.directory, settings, patient.now)
    return [Check(*verdict) for verdict in found]


def _connected(patient: Patient) -> bool:
    return bool(patient.live and patient.live.get("link", {}).get("connected"))


def check_ports(patient: Patient) -> list[Check]:
    settings = patient.settings
    if settings is None:
        return []
    if patient.running is not None:
        if patient.live is None:
            return [
                Check(
                    "daemon",
                    "Warning",
                    f"pid {patient.running.pid} holds the data directory but does not answer",
                    "journalctl -u edgecore -n 50",
                )
            ]
        return [Check("daemon", "OK", f"runs as pid {patient.running.pid}")]
    out = [Check("daemon", "Warning", "is not running", "systemctl start edgecore")]
    pages, broker = settings.api, settings.device_broker
    wanted = [("health and metrics", pages.host, pages.port, "api.port")]
    if not broker.url:
        wanted.append(("the device broker", broker.host, broker.port, "device_broker.port"))
    return out + [checkup.port(f"port of {what}", what, host, port, key=key) for what, host, port, key in wanted]


def check_link(patient: Patient) -> list[Check]:
    link = (patient.live or {}).get("link") or patient.pending or {}
    if link.get("fenced"):
        return [
            Check(
                "fenced",
                "Error",
                "another machine uses this node's identity, or this disk is an old copy: the cloud refuses it",
                f"edgecore reset --keep-data {patient.flag}  # then join again with a new token",
            )
        ]
    if patient.live is None:
        return []
    if link.get("connected"):
        since = Check("cloud link", "OK", f"connected since {link.get('since')}, epoch {link.get('epoch')}")
        return [since, *_streams(str(link.get("streams") or ""))]
    return [
        Check(
            "cloud link",
            "Warning",
            f"offline: {link.get('last_error') or 'no reason known'}",
            f"edgecore status {patient.flag}",
        )
    ]


def _streams(trouble: str) -> list[Check]:
    if not trouble:
        return [Check("logs and exec", "OK", "the cloud can open streams here")]
    look = "write the broker's rights anew: python -m cloudcore.broker_files DATA_DIR OUT   (on the cloud)"
    return [Check("logs and exec", "Warning", f"kubectl logs and exec will fail: {trouble}", look)]


def check_backlog(patient: Patient) -> list[Check]:
    link = (patient.live or {}).get("link") or patient.pending
    if not link or patient.settings is None:
        return []
    used, quota = int(link.get("pending_bytes", 0)), patient.settings.link.message_quota_bytes
    text = (
        f"{link.get('pending_messages', 0)} messages, {link.get('pending_states', 0)} states, {used} bytes of {quota}"
    )
    if used > quota * BACKLOG_WARNING_RATIO:
        return [
            Check(
                "outbox",
                "Warning",
                f"{text}: the oldest or least important will be dropped (and counted) soon",
                "edgecore run --set link.message_quota_bytes=…",
            )
        ]
    return [Check("outbox", "OK", text)]


def check_pods(patient: Patient) -> list[Check]:
    """The runtime and what it stands on; imports what a node without pods never needs."""
    if patient.settings is None or not patient.directory.path.is_dir():
        return []
    from edgecore.pods import doctor as pods  # noqa: PLC0415

    row = offline.read(patient.directory, lambda db: db.execute("SELECT name FROM pod_runtime").fetchone())
    return pods.examine(patient.directory, patient.settings.pods, str(row[0]) if row else "")


def check_local_api(patient: Patient) -> list[Check]:
    """Whether kubectl on this node and the clients in its pods are answered."""
    if patient.settings is None or patient.live is None or not patient.settings.local_api.enabled:
        return []
    name, wanted = "local API", patient.settings.local_api
    told = patient.live.get("local_api") or {}  # the daemon may have been started with other settings than ours
    host, port, pods_at = wanted.host, told.get("port") or wanted.port, wanted.pod_address
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            out = [Check(name, "OK", f"https://{host}:{port} (edgecore kubectl-config)")]
    except OSError as error:
        text = f"https://{host}:{port} does not answer: {error.strerror or error}"
        out = [Check(name, "Error", text, "journalctl -u edgecore -n 50 | grep -i api")]
    if pods_at and not address.is_here(pods_at):
        text = f"{pods_at} is no address of this machine: pods do not reach the local API"
        out.append(Check("pod address", "Error", text, f"ip address add {pods_at}/32 dev lo"))
    elif pods_at:
        out.append(Check("pod address", "OK", f"pods reach the local API at {pods_at}"))
    return out

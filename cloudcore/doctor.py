"""The doctor: every check has a name, a level, one sentence and the next command to type. It changes nothing."""

import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cloudcore import backup
from cloudcore.settings import Settings
from proto.kit import checkup, x509
from proto.kit.checkup import Check
from proto.kit.errors import MalformedMessage

CLOCK_SLACK = timedelta(minutes=5)
CERTIFICATE_WARNING = timedelta(days=14)  # renewal starts long before: with this left it has failed for weeks
DISK_ERROR_BYTES = 64 << 20  # below it SQLite cannot commit a burst
DISK_WARNING_BYTES = 1 << 30
WAITING_WARNING = 10_000


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at. ``live`` is the running daemon's own status, None when it does not answer."""

    data_dir: Path
    settings: Settings | None
    settings_error: str
    running: bool
    live: dict[str, Any] | None
    now: datetime

    @property
    def flag(self) -> str:
        return f"--data-dir {self.data_dir}"


async def examine(patient: Patient) -> list[Check]:
    """Run every check that makes sense, in the order in which a person would mend things."""
    from cloudcore import doctor_reach as reach  # noqa: PLC0415  the local checks need none of the network's imports

    local: list[Callable[[Patient], list[Check]]] = [
        check_data_dir,
        check_settings,
        check_disk,
        check_databases,
        check_certificates,
        check_clock,
        check_daemon,
        check_ports,
    ]
    remote: list[Callable[[Patient], Awaitable[list[Check]]]] = [
        reach.check_sql,
        reach.check_api,
        reach.check_definitions,
        reach.check_broker,
        reach.check_calls,
    ]
    found = [verdict for check in local for verdict in check(patient)]
    for check in remote:
        if patient.settings is not None:
            found += await check(patient)
    return [*found, *check_links(patient)]


def check_data_dir(patient: Patient) -> list[Check]:
    name, path = "data directory", patient.data_dir
    missing = Check(name, "Error", f"{path} does not exist yet", f"cloudcore serve {patient.flag}")
    wrong = checkup.directory(path, missing=missing)
    if wrong is not None:
        return [wrong]
    if backup.interrupted(path):
        return [Check(name, "Error", "a restore was interrupted", f"cloudcore restore FILE {patient.flag}")]
    secrets = [path, path / "admin.kubeconfig", *sorted((path / "pki").glob("*.key"))]
    for file in secrets:
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            return [Check(name, "Error", f"{file} is open to other users", f"chmod go= {file}")]
    return [Check(name, "OK", str(path))]


def check_settings(patient: Patient) -> list[Check]:
    if patient.settings is None:
        return [Check("settings", "Error", patient.settings_error, f"cloudcore serve --print-settings {patient.flag}")]
    return [Check("settings", "OK", "every key is known and valid")]


def check_disk(patient: Patient) -> list[Check]:
    name = "disk space"
    try:
        usage = os.statvfs(patient.data_dir)
    except OSError:
        return []
    free = usage.f_bavail * usage.f_frsize
    text, look = f"{free >> 20} MiB free", f"du -xh --max-depth=2 {patient.data_dir} / | sort -h | tail"
    if free < DISK_ERROR_BYTES:
        return [Check(name, "Error", f"{text}: nothing more can be acknowledged", look)]
    if free < DISK_WARNING_BYTES:
        return [Check(name, "Warning", f"{text}: history grows until history.keep_days", look)]
    return [Check(name, "OK", text)]


def check_databases(patient: Patient) -> list[Check]:
    mend = f"cloudcore restore FILE {patient.flag}"
    found = [patient.data_dir / part for part in backup.DATABASES]
    return [checkup.database(f"database {path.name}", path, mend=mend) for path in found if path.exists()]


def check_certificates(patient: Patient) -> list[Check]:
    pki, out = patient.data_dir / "pki", []
    for part in ("ca", "server", "cloudcore", "admin"):
        path, name = pki / f"{part}.crt", f"certificate {part}"
        if not path.exists():
            continue
        try:
            facts = x509.read_file(path)
        except (OSError, MalformedMessage) as error:
            out.append(Check(name, "Error", f"{path}: {error}", f"cloudcore restore FILE {patient.flag}"))
            continue
        left = facts.not_after - patient.now
        if left <= timedelta(0):
            mend = f"cloudcore serve {patient.flag}" if part != "ca" else "date -u  # is this machine's clock ahead?"
            out.append(Check(name, "Error", f"expired at {facts.not_after:%Y-%m-%d %H:%M} UTC", mend))
        elif left < CERTIFICATE_WARNING:
            text = f"{left.days} days left: it was not renewed"
            out.append(Check(name, "Warning", text, f"cloudcore serve {patient.flag}"))
        else:
            out.append(Check(name, "OK", f"{left.days} days left"))
    return out


def check_clock(patient: Patient) -> list[Check]:
    """Our own files were made in the past; a clock before them is wrong."""
    name, mend = "clock", "timedatectl set-ntp true"
    starts: list[datetime] = []
    for path in (patient.data_dir / "pki").glob("*.crt"):
        try:
            starts.append(x509.read_file(path).not_before)
        except (OSError, MalformedMessage):
            continue
    behind = [at for at in starts if patient.now < at]
    if behind:
        text = f"{patient.now:%Y-%m-%d %H:%M} UTC is before our own certificates begin: the clock is behind"
        return [Check(name, "Error", text, mend)]
    newest = max((p.stat().st_mtime for p in patient.data_dir.glob("*.db")), default=0.0)
    if newest > (patient.now + CLOCK_SLACK).timestamp():
        return [Check(name, "Warning", "files were written in what is now the future: the clock was set back", mend)]
    return [Check(name, "OK", f"{patient.now:%Y-%m-%d %H:%M:%S} UTC")]


def check_daemon(patient: Patient) -> list[Check]:
    if not patient.running:
        return [Check("daemon", "Warning", "cloudcore is not serving", f"cloudcore serve {patient.flag}")]
    if patient.live is None:
        text = "cloudcore runs, but its status page does not answer"
        return [Check("daemon", "Error", text, "journalctl -u cloudcore --since -10min")]
    return [Check("daemon", "OK", f"serving since {patient.live['started_at']}")]


def check_ports(patient: Patient) -> list[Check]:
    """A port that somebody else holds keeps the daemon from starting."""
    settings = patient.settings
    if settings is None or patient.running:
        return []
    listeners = [
        ("api", settings.api.host, settings.api.port, settings.embedded_api),
        ("broker", settings.broker.host, settings.broker.port, settings.embedded_broker),
        ("join", settings.join.host, settings.join.port, True),
        ("kubelet", settings.kubelet.host, settings.kubelet.port, True),
        ("admin", settings.admin.host, settings.admin.port, True),
    ]
    return [
        checkup.port(f"port {port}", what, host, port, key=f"{what}.port")
        for what, host, port, ours in listeners
        if ours and port
    ]


def check_links(patient: Patient) -> list[Check]:
    live = patient.live
    if live is None:
        return []
    out = [
        Check(f"watch {kind}", "Error", found["last_error"] or "not listed yet", f"cloudcore status {patient.flag}")
        for kind, found in live["informers"].items()
        if not found["left_out"] and (not found["synced"] or (found["last_error"] and not found["connected"]))
    ]
    forbidden = [kind for kind, found in live["informers"].items() if found["left_out"] and not found["synced"]]
    if forbidden:
        text = f"we may not read {', '.join(forbidden)}: what pods need of them does not reach nodes"
        look = "kubectl auth can-i --list  # compare with the ClusterRole in docs/cloudcore.md"
        out.append(Check("left out", "Warning", text, look))
    waiting = sum(live["waiting"].values())
    if waiting > WAITING_WARNING:
        text = f"{waiting} writes wait for the API server"
        out.append(Check("backlog", "Warning", text, f"cloudcore status {patient.flag}"))
    out += [
        Check(f"backlog {node}", "Warning", found["backlogged"], f"kubectl describe node {node}")
        for node, found in live["nodes"].items()
        if found.get("backlogged")
    ]
    away = [node for node, found in live["nodes"].items() if not found["connected"]]
    if away:
        shown = ", ".join(away[:5]) + (f" and {len(away) - 5} more" if len(away) > 5 else "")
        out.append(Check("nodes", "Warning", f"away: {shown}", "edgecore doctor   (on that node)"))
    elif live["nodes"]:
        out.append(Check("nodes", "OK", f"{len(live['nodes'])} connected"))
    return out

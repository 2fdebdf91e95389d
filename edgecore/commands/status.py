"""``edgecore status``: node, cloud link, devices, pods, certificate and disk, from the daemon or from what it left on disk."""

import argparse
from typing import Any

from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.status import gather
from proto.kit.clock import SystemClock


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    document = gather(directory, settings_of(args, directory), SystemClock())
    print(as_json(document) if args.output == "json" else render(document))
    return 0


def render(document: dict[str, Any]) -> str:
    """A short table; each line one subject."""
    link, devices, disk = document["link"], document["devices"], document["disk"]
    rows = [
        ("Node", document["node"] or "has not joined: edgecore join --cloud URL --token TOKEN --node NAME"),
        ("Daemon", _daemon(document["daemon"])),
        ("Cloud", _cloud(link)),
        (
            "Waiting",
            f"{link['pending_messages']} messages, {link['pending_states']} states, {link['pending_bytes']} bytes",
        ),
        (
            "Devices",
            f"{devices['total']}: {devices['synced']} synced, {devices['pending']} pending, {devices['stale']} stale",
        ),
        ("Pods", _pods(document.get("pods") or {})),
        ("Writes", _writes(document.get("writes") or {})),
        ("Label", document["label"] or "-"),
        ("Certificate", _certificate(document["certificate"])),
        ("Disk", f"{disk['free_bytes'] >> 20} MiB free, database {disk['database_bytes'] >> 10} KiB"),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _pods(pods: dict[str, Any]) -> str:
    where = pods.get("runtime") or ""
    by = f" ({where})" if where and not where.startswith("none") else ""
    troubled = f", {pods['troubled']} not ready: edgecore pods says why" if pods.get("troubled") else ""
    return f"{pods.get('total', 0)}: {pods.get('ready', 0)} ready, {pods.get('ended', 0)} ended{troubled}{by}"


def _writes(writes: dict[str, int]) -> str:
    refused = writes.get("conflicts", 0)
    return f"{writes.get('pending', 0)} pending, {refused} not applied" + (
        ": edgecore conflicts list" if refused else ""
    )


def _daemon(daemon: dict[str, Any]) -> str:
    if not daemon["running"]:
        return "not running: systemctl start edgecore, or edgecore run"
    return f"running, pid {daemon['pid']}" + (
        f", ready since {daemon['since']}" if daemon.get("since") else ", no answer"
    )


def _cloud(link: dict[str, Any]) -> str:
    where = link["broker"] or "no cloud"
    if link["fenced"]:
        return f"FENCED at {where}: another machine uses this identity; see edgecore doctor"
    if link["connected"]:
        return f"Connected to {where} since {link['since']}, epoch {link['epoch']}"
    reason = f": {link['last_error']}" if link["last_error"] else ""
    since = f" since {link['since']}" if link["since"] else ""
    return f"Offline{since} ({where}){reason}"


def _certificate(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    return f"{found['subject']}, {found['days_left']:.1f} days left (until {found['not_after']})"

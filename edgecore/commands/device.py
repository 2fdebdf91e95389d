"""``edgecore device list`` and ``device explain NAME``: twins as this node knows them, with or without the daemon."""

import argparse
from typing import Any

from edgecore import offline
from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.explain import explain, name_of, table
from edgecore.kinds import DEVICE, DEVICE_STATUS
from edgecore.status import gather
from proto.kit.clock import SystemClock
from proto.kit.errors import SkerryError, UsageError

COLUMNS = ("NAMESPACE", "NAME", "MODEL", "PROTOCOL", "STATE", "SYNC", "AGE")


def run(args: argparse.Namespace) -> int:
    directory, clock = data_dir_of(args), SystemClock()
    devices = offline.objects(directory, DEVICE)
    statuses = offline.objects(directory, DEVICE_STATUS)
    if args.device_verb == "list":
        rows = table([d for d in devices if args.namespace in {"", name_of(d)[0]}], statuses, clock.wall())
        print(as_json({"version": 1, "items": rows}) if args.output == "json" else render_table(rows))
        return 0
    device = _find(devices, args.name, args.namespace)
    status = next((s for s in statuses if name_of(s) == name_of(device)), None)
    link = gather(directory, settings_of(args, directory), clock)["link"]
    document = explain(device, status, link, clock.wall())
    print(as_json(document) if args.output == "json" else render(document))
    return 0


def render_table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns, as kubectl shows them."""
    if not rows:
        return "no devices: the cloud has none for this node, or it has not been reached yet (edgecore status)"
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def render(document: dict[str, Any]) -> str:
    """The sentences first, then property by property."""
    title = f"{document['namespace']}/{document['name']}: {document['sync']}, {document['state']}"
    rows = [("PROPERTY", "DESIRED", "BY", "REPORTED")]
    rows += [
        (p["name"], _shown(p["desired"]), p["desired_by"] or "-", _shown(p["reported"])) for p in document["properties"]
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *(f"  {why}" for why in document["why"]), "", *lines])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    age = "-" if row["age_s"] is None else short_duration(row["age_s"])
    keys = ("namespace", "name", "model", "protocol", "state", "sync")
    return (*(str(row[key]) or "-" for key in keys), age)


def short_duration(seconds: int) -> str:
    """``45s``, ``12m``, ``3h``, ``9d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _shown(value: str | None) -> str:
    return "-" if value is None else value


def _find(devices: list[dict[str, Any]], name: str, namespace: str) -> dict[str, Any]:
    """Raises UsageError when it is not here, or when two namespaces have it."""
    space, _, plain = name.rpartition("/")
    space = space or namespace
    found = [d for d in devices if d["metadata"]["name"] == plain and space in {"", name_of(d)[0]}]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{plain} exists in {', '.join(name_of(d)[0] for d in found)}: add -n NAMESPACE")
    known = ", ".join("/".join(name_of(d)) for d in devices[:5])
    raise SkerryError(f"no device {name} on this node" + (f"; there are: {known}" if known else ""))

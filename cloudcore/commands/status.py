"""``cloudcore status``: what the running daemon says about itself. Exit code 1 when none answers."""

import argparse
import sys
from typing import Any

from cloudcore.commands import as_json, as_table, data_dir_of
from cloudcore.commands.api import live_status


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    found = live_status(directory)
    if args.output == "json":
        print(as_json(found if found is not None else {"ready": False}))
        return 0 if found is not None else 1
    if found is None:
        print(
            f"cloudcore: no daemon of {directory} answers; start it with `cloudcore serve --data-dir {directory}`,"
            " or see `cloudcore doctor`",
            file=sys.stderr,
        )
        return 1
    print(render(found))
    return 0


def render(found: dict[str, Any]) -> str:
    """Return the status for people."""
    lines = [f"cloudcore {found['version']} {'ready' if found['ready'] else 'starting'}, since {found['started_at']}"]
    lines += [f"  {name:<9} {where}" for name, where in found["addresses"].items()]
    lines += [f"  database  {found['database']}", ""]
    informers = [
        (name, str(i["objects"]), "yes" if i["synced"] else "no", _watching(i))
        for name, i in found["informers"].items()
    ]
    lines += [as_table(("RESOURCE", "OBJECTS", "LISTED", "WATCHING"), informers), ""]
    nodes = [(name, *_node(n)) for name, n in found["nodes"].items()]
    head = ("NODE", "LINK", "FOR", "EPOCH", "DEVICES", "PODS")
    lines.append(as_table(head, nodes) if nodes else "no node has connected yet")
    held = [f"not taken now: {n['backlogged']}" for n in found["nodes"].values() if n.get("backlogged")]
    lines += ["", *held] if held else []
    waiting = {what: count for what, count in found["waiting"].items() if count}
    if waiting:
        lines += ["", "waiting: " + ", ".join(f"{count} {what}" for what, count in waiting.items())]
    return "\n".join(lines)


def _watching(informer: dict[str, Any]) -> str:
    if informer["connected"]:
        return "yes"
    return f"{'left out' if informer['left_out'] else 'no'}: {informer['last_error']}"


def _node(node: dict[str, Any]) -> tuple[str, ...]:
    link = "connected" if node["connected"] else "away"
    return link, f"{node['since_s']:g}s", str(node["epoch"]), str(node["devices"]), str(node["pods"])

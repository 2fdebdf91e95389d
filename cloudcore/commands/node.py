"""``cloudcore node list|revoke NAME``."""

import argparse
from typing import TYPE_CHECKING, Any

from cloudcore import revocation
from cloudcore.commands import as_json, as_table, data_dir_of, open_sql, wait
from cloudcore.commands.api import live_status
from proto.kit.clock import SystemClock, rfc3339
from proto.kit.errors import Terminal, UsageError
from proto.names import is_node_name

if TYPE_CHECKING:
    from sqlalchemy import Connection


class UnknownNode(Terminal):
    """No certificate was ever issued to that name, and nobody is linked by it."""

    code = "UnknownNode"


def run(args: argparse.Namespace) -> int:
    return wait({"list": _list, "revoke": _revoke}[args.node_verb](args))


async def _list(args: argparse.Namespace) -> int:
    sql = open_sql(args)
    try:
        revoked = {r.node: r for r in await sql.read(revocation.list_revoked)}
        certified = await sql.read(revocation.living_nodes)
    finally:
        await sql.close()
    live = live_status(data_dir_of(args))
    links: dict[str, Any] = (live or {}).get("nodes", {})
    nodes = [
        {
            "node": node,
            "link": _link(links.get(node), serving=live is not None),
            "epoch": links.get(node, {}).get("epoch", 0),
            "devices": links.get(node, {}).get("devices", 0),
            "revoked": rfc3339(revoked[node].revoked_at) if node in revoked else "",
            "reason": revoked[node].reason if node in revoked else "",
        }
        for node in sorted({*links, *certified, *revoked})
    ]
    if args.output == "json":
        print(as_json(nodes))
        return 0
    rows = [(n["node"], n["link"], str(n["epoch"]), str(n["devices"]), n["revoked"] or "-") for n in nodes]
    print(as_table(("NODE", "LINK", "EPOCH", "DEVICES", "REVOKED"), rows))
    return 0


def _link(found: dict[str, Any] | None, *, serving: bool) -> str:
    if not serving:
        return "unknown: cloudcore is not serving"
    if found is None:
        return "never seen since start"
    return f"{'connected' if found['connected'] else 'away'} for {found['since_s']:g}s"


async def _revoke(args: argparse.Namespace) -> int:
    if not is_node_name(args.name):
        raise UsageError(f"node {args.name!r} is no DNS-1123 label")
    now = SystemClock().wall()
    linked = args.name in (live_status(data_dir_of(args)) or {}).get("nodes", {})

    def end(connection: "Connection") -> int:
        if not linked and not revocation.is_known(connection, args.name):
            raise UnknownNode(f"no node {args.name} has joined this cloud: `cloudcore node list` shows those that have")
        return revocation.revoke(connection, args.name, now, args.reason)

    sql = open_sql(args)
    try:
        ended = await sql.tx(end)
    finally:
        await sql.close()
    if args.output == "json":
        print(as_json({"node": args.name, "certificates": ended, "reason": args.reason}))
    else:
        print(f"node {args.name} is out: {ended} certificate(s) ended; it may come back with a new join token")
    return 0

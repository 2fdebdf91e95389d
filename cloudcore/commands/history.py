"""``cloudcore history DEVICE``: what a device reported, as text, CSV or JSON lines in one array."""

import argparse
import csv
import sys
from datetime import UTC, datetime
from typing import Any

from cloudcore.commands import as_json, as_table, open_sql, wait
from cloudcore.durations import parse_s
from cloudcore.history import Query, gaps, read
from proto.kit.clock import SystemClock, wall_ms
from proto.kit.errors import UsageError

FIELDS = ("at", "node", "namespace", "device", "property", "value", "version", "seq", "incarnation", "uid", "at_ms")


def run(args: argparse.Namespace) -> int:
    return wait(_history(args))


async def _history(args: argparse.Namespace) -> int:
    query = query_of(args, wall_ms(SystemClock()))
    sql = open_sql(args)
    try:
        rows = await sql.read(lambda conn: [_shown(row) for row in read(conn, query)])
        holes = await sql.read(gaps)
    finally:
        await sql.close()
    if args.output == "json":
        print(as_json(rows))
    elif args.output == "csv":
        writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif rows:
        print(_table(rows))
    else:
        print(f"no reports of {query.namespace}/{query.device}", file=sys.stderr)
    nodes = {row["node"] for row in rows}
    for hole in holes:
        if hole["node"] in nodes:
            count = hole["last"] - hole["first"] + 1
            told = _instant(hole["at_ms"])
            print(f"{told} node {hole['node']} declared {count} message(s) dropped: {hole['reason']}", file=sys.stderr)
    return 0


def query_of(args: argparse.Namespace, now_ms: int) -> Query:
    """Return what to look for. Raises UsageError."""
    namespace, _, device = args.device.rpartition("/")
    if namespace and args.namespace and namespace != args.namespace:
        raise UsageError(f"{args.device!r} and -n {args.namespace} name two namespaces")
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1")
    since_ms = now_ms - int(parse_s(args.since, "--since") * 1000) if args.since else 0
    return Query(namespace or args.namespace or "default", device, args.property, since_ms, args.limit)


def _table(rows: list[dict[str, Any]]) -> str:
    """One line per value. A device that was deleted and made again is another one: then each line says whose it is."""
    fields = ["at", "property", "value", "node"]
    if len({row["uid"] for row in rows}) > 1:
        fields.append("uid")
    return as_table([field.upper() for field in fields], [[_plain(row[field]) for field in fields] for row in rows])


def _plain(text: str) -> str:
    """Return ``text`` as it may go to a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    at = _instant(row["at_ms"])
    return {field: at if field == "at" else row[field] for field in FIELDS}


def _instant(at_ms: int) -> str:
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a gateway whose clock is beyond every calendar
        return f"{at_ms} ms"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

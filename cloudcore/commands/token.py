"""``cloudcore token create|list|delete``."""

import argparse

from cloudcore import tokens
from cloudcore.certs import Authority
from cloudcore.commands import as_json, as_table, data_dir_of, open_sql, wait
from cloudcore.durations import parse_s
from proto.kit.clock import SystemClock, rfc3339
from proto.kit.errors import UsageError


def run(args: argparse.Namespace) -> int:
    return wait({"create": _create, "list": _list, "delete": _delete}[args.token_verb](args))


async def _create(args: argparse.Namespace) -> int:
    ttl_s = parse_s(args.ttl, "--ttl")
    clock = SystemClock()
    authority = Authority.open_or_create(data_dir_of(args) / "pki", clock)
    sql = open_sql(args)
    try:
        token = await sql.tx(
            lambda conn: tokens.create(conn, ca_hash=authority.ca_hash, now=clock.wall(), ttl_s=ttl_s, node=args.node)
        )
    finally:
        await sql.close()
    print(as_json({"token": token, "node": args.node, "ttl_s": ttl_s}) if args.output == "json" else token)
    return 0


async def _list(args: argparse.Namespace) -> int:
    sql = open_sql(args)
    try:
        found = await sql.read(lambda conn: tokens.list_tokens(conn, SystemClock().wall()))
    finally:
        await sql.close()
    if args.output == "json":
        print(as_json(found))
        return 0
    rows = [
        (
            t.id,
            t.node or "(any)",
            rfc3339(t.expires_at),
            t.used_by or "-",
            "expired" if t.expired else "used" if t.used_at else "open",
        )
        for t in found
    ]
    print(as_table(("ID", "NODE", "EXPIRES", "USED BY", "STATE"), rows))
    return 0


async def _delete(args: argparse.Namespace) -> int:
    sql = open_sql(args)
    try:
        gone = await sql.tx(lambda conn: tokens.delete(conn, args.token))
    finally:
        await sql.close()
    if not gone:
        raise UsageError("no such token; `cloudcore token list` shows the ids")
    token_id = args.token.partition(".")[0]
    print(as_json({"deleted": token_id}) if args.output == "json" else f"token {token_id} deleted")
    return 0

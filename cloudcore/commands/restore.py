"""``cloudcore restore FILE``: refused while a daemon serves the data directory."""

import argparse

from cloudcore.backup import restore
from cloudcore.commands import as_json, data_dir_of, open_sql, wait
from cloudcore.link_log import renew


def run(args: argparse.Namespace) -> int:
    manifest = restore(data_dir_of(args), args.file)
    incarnation = wait(_renew(args))
    if args.output == "json":
        print(as_json({"file": str(args.file), "manifest": manifest, "incarnation": incarnation}))
        return 0
    print(f"restored {', '.join(manifest.parts)} as of {manifest.created_at}; edges will compare everything once")
    print(f"next: cloudcore serve --data-dir {data_dir_of(args)}")
    return 0


async def _renew(args: argparse.Namespace) -> str:
    sql = open_sql(args)
    try:
        return await sql.tx(renew)
    finally:
        await sql.close()

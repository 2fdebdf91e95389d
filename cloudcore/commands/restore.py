"""``cloudcore restore FILE``: refused while a daemon serves the data directory."""

import argparse

from cloudcore import backup
from cloudcore.commands import as_json, data_dir_of, open_sql, wait
from cloudcore.link_log import renew


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    manifest = backup.restore(directory, args.file)
    incarnation = wait(_renew(args))
    backup.finish(directory)
    if args.output == "json":
        print(as_json({"file": str(args.file), "manifest": manifest, "incarnation": incarnation}))
        return 0
    print(f"restored {', '.join(manifest.parts)} as of {manifest.created_at}; edges will compare everything once")
    print(f"next: cloudcore serve --data-dir {directory}")
    return 0


async def _renew(args: argparse.Namespace) -> str:
    sql = open_sql(args)
    try:
        return await sql.tx(renew)
    finally:
        await sql.close()

"""``cloudcore backup FILE``: works while the daemon serves."""

import argparse
import sys

from cloudcore.backup import backup
from cloudcore.commands import as_json, data_dir_of, settings_of
from proto.kit.clock import SystemClock


def run(args: argparse.Namespace) -> int:
    manifest = backup(data_dir_of(args), args.file, settings_of(args), SystemClock())
    if args.output == "json":
        print(as_json({"file": str(args.file), "manifest": manifest}))
        return 0
    print(f"saved {', '.join(manifest.parts)} to {args.file}; it holds private keys: keep it safe")
    if manifest.external:
        print("history is in PostgreSQL: save that database with pg_dump", file=sys.stderr)
    return 0

"""``edgecore join``: get an identity from a cloud. Everything it does is in ``edgecore.join``."""

import argparse
import asyncio
import sys
from typing import Any

from edgecore.commands import as_json, data_dir_of
from edgecore.join import Joined, join
from proto.kit.clock import SystemClock, rfc3339

MAX_TOKEN_CHARS = 4096


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    token = sys.stdin.readline(MAX_TOKEN_CHARS) if args.token == "-" else args.token  # noqa: S105  "-" is no secret
    quiet = args.output == "json"

    def say(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    joined = asyncio.run(join(args.cloud, token, args.node, directory.path, clock=SystemClock(), say=say))
    print(as_json(_document(joined)) if quiet else render(joined))
    return 0


def render(joined: Joined) -> str:
    """What a person reads at the end."""
    first = f"{joined.node} has {'already ' if joined.already else ''}joined"
    warnings = [f"warning: {text}" for text in joined.warnings]
    return "\n".join([*warnings, first, f"next: {joined.next_command}"])


def _document(joined: Joined) -> dict[str, Any]:
    return {
        "version": 1,
        "node": joined.node,
        "data_dir": str(joined.data_dir),
        "not_after": rfc3339(joined.not_after),
        "already": joined.already,
        "warnings": joined.warnings,
        "next": joined.next_command,
    }

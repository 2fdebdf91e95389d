"""``cloudcore crds apply``: our definitions, into the embedded API or the one that --kubeconfig names."""

import argparse

from cloudcore import crds
from cloudcore.commands import as_json, as_table, wait
from cloudcore.commands.api import client_of
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock


def run(args: argparse.Namespace) -> int:
    return wait(_apply(args))


async def _apply(args: argparse.Namespace) -> int:
    client = client_of(args)
    try:
        done = await crds.apply(client, clock=SystemClock(), rng=Rng())
    finally:
        await client.close()
    if args.output == "json":
        print(as_json(done))
    else:
        print(as_table(("DEFINITION", "ACTION", "NOTE"), [(a.name, a.action, a.note) for a in done]))
    return 0

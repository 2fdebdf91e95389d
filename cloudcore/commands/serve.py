"""``cloudcore serve``: the daemon."""

import argparse
import sys

from cloudcore.commands import data_dir_of, settings_of
from proto.kit import daemon, log
from proto.kit.settings import to_yaml


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.print_settings:
        sys.stdout.write(to_yaml(settings))
        return 0
    log.setup(settings.log_level)
    from cloudcore.app import App  # noqa: PLC0415  the daemon's imports take longer than --print-settings should

    return daemon.run(lambda: App(data_dir_of(args), settings).run())

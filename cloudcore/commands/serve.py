"""``cloudcore serve``: the daemon."""

import argparse
import resource
import sys
from contextlib import suppress

from cloudcore.commands import data_dir_of, settings_of
from proto.kit import daemon, log
from proto.kit.commandline import loading
from proto.kit.settings import to_yaml

MAX_OPEN_FILES = 65_536  # a connection is a file; the usual soft limit of 1024 is less than a thousand edges need


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.print_settings:
        sys.stdout.write(to_yaml(settings))
        return 0
    log.setup(settings.log_level)
    _allow_many_connections()
    with loading():
        from cloudcore.app import App  # noqa: PLC0415  the daemon's imports take longer than --print-settings should

    return daemon.run(lambda: App(data_dir_of(args), settings).run())


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft < wanted:
        with suppress(OSError, ValueError):  # then the broker refuses what does not fit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

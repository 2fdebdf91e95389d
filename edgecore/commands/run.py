"""``edgecore run``: the daemon."""

import argparse

from edgecore.commands import data_dir_of, settings_of
from proto.kit import log
from proto.kit.commandline import loading
from proto.kit.errors import UsageError
from proto.kit.settings import to_yaml


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    settings = settings_of(args, directory)
    if args.print_settings:
        print(to_yaml(settings), end="")
        return 0
    if not settings.node or not directory.joined():
        raise UsageError(
            f"{directory.path} has not joined a cloud;"
            f" next: edgecore join --cloud URL --token TOKEN --node NAME --data-dir {directory.path}"
        )
    log.setup(settings.log_level)
    with loading():
        from edgecore import app  # noqa: PLC0415  --print-settings and mistakes answer without loading the daemon
        from proto.kit import daemon  # noqa: PLC0415

    return daemon.run(lambda: app.serve(directory, settings))

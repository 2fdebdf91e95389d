"""``cloudcore doctor``: check everything and say what to type next. Exit code 1 when a check is an Error."""

import argparse

from cloudcore.commands import as_json, data_dir_of, settings_of, wait
from cloudcore.commands.api import live_status
from cloudcore.data_dir import is_running
from cloudcore.doctor import Patient, examine
from proto.kit import checkup
from proto.kit.clock import SystemClock
from proto.kit.errors import UsageError


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    settings, trouble = None, ""
    try:
        settings = settings_of(args)
    except UsageError as error:
        trouble = str(error)
    running = is_running(directory)
    live = live_status(directory) if running else None
    checks = wait(examine(Patient(directory, settings, trouble, running, live, SystemClock().wall())))
    print(as_json(checkup.page(checks)) if args.output == "json" else checkup.render(checks))
    return 1 if checkup.failed(checks) else 0

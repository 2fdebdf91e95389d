"""``edgecore doctor``: check everything and say what to type next. Exit code 1 when a check is an Error."""

import argparse

from edgecore import offline
from edgecore.admin import live_status
from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.doctor import Patient, examine
from proto.kit import checkup
from proto.kit.clock import SystemClock
from proto.kit.errors import UsageError


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    settings, trouble = None, ""
    try:
        settings = settings_of(args, directory)
    except UsageError as error:
        trouble = str(error)
    running, live = live_status(directory)
    patient = Patient(
        directory, settings, trouble, running, live, SystemClock().wall(), pending=offline.link_summary(directory)
    )
    checks = examine(patient)
    print(as_json(checkup.page(checks)) if args.output == "json" else checkup.render(checks))
    return 1 if checkup.failed(checks) else 0

"""``cloudcore doctor``: check everything and say what to type next. Exit code 1 when a check is an Error."""

import argparse

from cloudcore.commands import as_json, data_dir_of, settings_of, wait
from cloudcore.commands.api import live_status
from cloudcore.data_dir import is_running
from cloudcore.doctor import Check, Patient, examine
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
    failed = any(check.level == "Error" for check in checks)
    print(as_json({"version": 1, "ok": not failed, "checks": checks}) if args.output == "json" else render(checks))
    return 1 if failed else 0


def render(checks: list[Check]) -> str:
    """Return one line per check, and under each that is not OK the command to type."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:<8} {check.name:<{width}}  {check.message}")
        if check.level != "OK" and check.next:
            lines.append(f"{'':<8} {'':<{width}}  next: {check.next}")
    errors = sum(check.level == "Error" for check in checks)
    warnings = sum(check.level == "Warning" for check in checks)
    return "\n".join([*lines, "", f"{len(checks)} checks, {errors} errors, {warnings} warnings"])

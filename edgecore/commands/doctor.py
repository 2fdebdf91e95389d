"""``edgecore doctor``: check everything and say what to type next. Exit code 1 when a check is an Error."""

import argparse

from edgecore import offline
from edgecore.admin import live_status
from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.doctor import Check, Patient, examine
from proto.kit.clock import SystemClock
from proto.kit.errors import UsageError

SCHEMA_VERSION = 1


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
    print(_json(checks) if args.output == "json" else render(checks))
    return 1 if any(check.level == "Error" for check in checks) else 0


def render(checks: list[Check]) -> str:
    """One line per check, and under each that is not OK the command to type."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:<8} {check.name:<{width}}  {check.message}")
        if check.level != "OK" and check.next:
            lines.append(f"{'':<8} {'':<{width}}  next: {check.next}")
    errors = sum(check.level == "Error" for check in checks)
    warnings = sum(check.level == "Warning" for check in checks)
    return "\n".join([*lines, "", f"{len(checks)} checks, {errors} errors, {warnings} warnings"])


def _json(checks: list[Check]) -> str:
    return as_json({"version": SCHEMA_VERSION, "ok": all(c.level != "Error" for c in checks), "checks": checks})

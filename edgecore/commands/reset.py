"""``edgecore reset``: end the pods, forget identity and state. Keeps a quarantine copy unless ``--purge``; safe to repeat."""

import argparse
import sys

from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.data_dir import DataDir
from edgecore.reset import plan, reset
from proto.kit.clock import SystemClock
from proto.kit.errors import UsageError


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    if args.pods_only:
        return _end_pods(args, directory)
    found = plan(directory, keep_data=args.keep_data)
    if found and not args.yes:
        _ask([str(path) for path in found], purge=args.purge)
    pods = [] if args.keep_data else _cleared(args, directory)
    done = reset(directory, purge=args.purge, keep_data=args.keep_data, clock=SystemClock())
    if args.output == "json":
        print(as_json({**done, "pods": pods}))
    elif not done["removed"]:
        print(f"nothing to reset in {directory.path}")
    else:
        kept = f"; a copy is in {done['quarantine']}" if done["quarantine"] else ""
        print(
            f"reset {directory.path}: {len(done['removed'])} files removed{kept}\nnext: edgecore join --cloud URL --token TOKEN --node NAME --data-dir {directory.path}"
        )
    return 0


def _end_pods(args: argparse.Namespace, directory: DataDir) -> int:
    if not args.yes:
        _ask([str(directory.path / "pods"), str(directory.path / "logs")], purge=True)
    pods = _cleared(args, directory)
    print(as_json({"pods": pods}) if args.output == "json" else f"{len(pods)} pods ended on this node")
    return 0


def _cleared(args: argparse.Namespace, directory: DataDir) -> list[str]:
    """End the pods; a node that never ran one loads nothing of it."""
    from edgecore.pods.clearing import clear  # noqa: PLC0415

    return clear(directory, settings_of(args, directory), SystemClock())


def _ask(paths: list[str], *, purge: bool) -> None:
    """Raises UsageError unless a person types yes."""
    print("\n".join(["This node forgets what is in these files:", *paths]), file=sys.stderr)
    question = "Delete them for good? [yes/no] " if purge else "Move them to a quarantine folder? [yes/no] "
    if not sys.stdin.isatty():
        raise UsageError("nobody to ask: add --yes")
    if input(question).strip().lower() not in {"y", "yes"}:
        raise UsageError("nothing was changed")

"""``edgecore conflicts list|show|retry|drop``: the writes that the cloud did not apply, with both versions."""

import argparse
from typing import Any

from edgecore.commands import as_json, data_dir_of, settings_of
from edgecore.commands.pending import document, table
from edgecore.data_dir import DataDir
from edgecore.kinds import WRITE_CONFLICT
from edgecore.localapi.technician import MERGE_PATCH, Refused, Technician, path_of
from edgecore.offline import Journalled, journal, objects
from edgecore.status import gather
from proto import conflicts, writes
from proto.kit.clock import SystemClock
from proto.kit.errors import SkerryError
from proto.names import ObjectKey, parse_key

Json = dict[str, Any]


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    rows = [row for row in journal(directory) if row.outcome]
    if args.conflict_verb == "list":
        print(_listing(rows, args.output))
        return 0
    row = _find(rows, args.name)
    if args.conflict_verb == "show":
        print(_shown(directory, row, args.output))
        return 0
    technician = _technician(args, directory)
    if args.conflict_verb == "retry":
        _again(technician, row)
    _drop(technician, row)
    done = "made again; see edgecore pending" if args.conflict_verb == "retry" else "dropped"
    print(f"write {row.write.seq} of {row.write.kind} {parse_key(row.write.key).name} {done}")
    return 0


def _listing(rows: list[Journalled], output: str) -> str:
    if output == "json":
        return as_json({"version": 1, "items": [document(row) for row in rows]})
    if not rows:
        return "no conflicts: everything that was written here was applied, or waits (edgecore pending)"
    head = ("NAME", "OUTCOME", "VERB", "KIND", "TARGET", "REASON", "MESSAGE")
    return table(head, [_cells(row) for row in rows])


def _cells(row: Journalled) -> tuple[str, ...]:
    key = parse_key(row.write.key)
    target = f"{key.namespace}/{key.name}" if key.namespace else key.name
    return (_name(row), row.outcome, row.write.verb, row.write.kind, target, row.reason, row.message[:80])


def _name(row: Journalled) -> str:
    return row.conflict.rpartition("/")[2] or str(row.write.seq)


def _find(rows: list[Journalled], name: str) -> Journalled:
    """Raises SkerryError when there is none of that name or number."""
    found = [row for row in rows if name in (_name(row), row.conflict, str(row.write.seq))]
    if not found:
        raise SkerryError(f"no conflict {name}; see edgecore conflicts list")
    return found[0]


def _shown(directory: DataDir, row: Journalled, output: str) -> str:
    kept = [each for each in objects(directory, WRITE_CONFLICT) if each["metadata"]["name"] == _name(row)]
    theirs = kept[0].get("spec", {}).get("theirs") if kept else None
    hide = conflicts.hide
    versions = {"mine": row.write.mine, "base": row.write.base, "theirs": theirs}
    shown = {name: hide(row.write.kind, value) for name, value in versions.items() if value}
    if output == "json":
        return as_json({**document(row), **shown, "version": 1})
    head = [f"{row.outcome}: {row.message}", f"{row.write.verb} by {row.write.user} at {row.write.at}"]
    parts = [f"{name}:\n{as_json(value)}" for name, value in shown.items()]
    return "\n".join([*head, *parts, f"next: edgecore conflicts retry {_name(row)}, or drop"])


def _technician(args: argparse.Namespace, directory: DataDir) -> Technician:
    settings = settings_of(args, directory)
    port = gather(directory, settings, SystemClock())["local_api"]["port"]
    if not port:
        raise SkerryError("edgecore does not run, or serves no node-local API: start it first")
    return Technician(directory, settings, port)


def _again(technician: Technician, row: Journalled) -> None:
    """Make the write once more, over what the object is now. Raises Refused."""
    write, key = row.write, parse_key(row.write.key)
    path = path_of(write.api_version, key, subresource=write.subresource)
    if write.verb == writes.DELETE:
        technician.call("DELETE", path)
        return
    if write.verb == writes.CREATE:
        try:
            technician.call("POST", path_of(write.api_version, key, named=False), write.mine)
        except Refused as error:
            if error.status != 409:
                raise
        else:
            return
    technician.call("PATCH", path, write.mine, MERGE_PATCH)


def _drop(technician: Technician, row: Journalled) -> None:
    namespace, _, name = row.conflict.partition("/")
    key = ObjectKey(WRITE_CONFLICT.group, WRITE_CONFLICT.plural, namespace, name)
    technician.call("DELETE", path_of(WRITE_CONFLICT.api_version, key))

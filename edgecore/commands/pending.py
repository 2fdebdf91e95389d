"""``edgecore pending``: the writes at the node-local API that the cloud has not answered, oldest first; works offline."""

import argparse

from edgecore.commands import as_json, data_dir_of
from edgecore.offline import Journalled, journal
from proto.names import parse_key


def run(args: argparse.Namespace) -> int:
    rows = [row for row in journal(data_dir_of(args)) if not row.outcome]
    if args.output == "json":
        print(as_json({"version": 1, "items": [document(row) for row in rows]}))
    elif not rows:
        print("nothing is pending: the cloud has answered every write")
    else:
        print(table(("SEQ", "VERB", "KIND", "NAMESPACE", "NAME", "USER", "AT"), [_cells(row) for row in rows]))
    return 0


def document(row: Journalled) -> dict[str, object]:
    """One write for scripts. Secrets are not in it: see the object itself."""
    key = parse_key(row.write.key)
    return {
        "seq": row.write.seq,
        "verb": row.write.verb,
        "apiVersion": row.write.api_version,
        "kind": row.write.kind,
        "namespace": key.namespace,
        "name": key.name,
        "subresource": row.write.subresource,
        "user": row.write.user,
        "at": row.write.at,
        "outcome": row.outcome,
        "reason": row.reason,
        "message": row.message,
        "conflict": row.conflict,
    }


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned columns."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(row: Journalled) -> tuple[str, ...]:
    key, write = parse_key(row.write.key), row.write
    return (str(write.seq), write.verb, write.kind, key.namespace or "-", key.name, write.user, write.at)

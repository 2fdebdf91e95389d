"""ControllerRevisions: the templates that a DaemonSet or StatefulSet had, numbered, for ``kubectl rollout history`` and ``undo``."""

import hashlib
from typing import Any

from kubeapi.controllers import parts
from kubeapi.controllers.index import Index
from kubeapi.kinds import CONTROLLER_REVISION
from kubeapi.metadata import SUFFIX_ALPHABET
from kubeapi.objects import Objects, WriteOptions
from kubeapi.resources import Resource
from proto.kit import canonical

Json = dict[str, Any]
HASH = "controller-revision-hash"


def content(owner: Json) -> Json:
    """Return what a revision keeps: a patch that puts the template back."""
    return {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}


def content_hash(body: Json) -> str:
    digest = int.from_bytes(hashlib.sha256(canonical.encode(body)).digest()[:8], "big")
    out = ""
    while len(out) < 10:
        digest, letter = divmod(digest, len(SUFFIX_ALPHABET))
        out += SUFFIX_ALPHABET[letter]
    return out


async def history(objects: Objects, index: Index, res: Resource, owner: Json, manager: str) -> tuple[Json, list[Json]]:
    """Return (the revision of the present template, every revision by number); the present one is made if need be."""
    selector = owner["spec"].get("selector")
    held = await parts.claim(objects, index, CONTROLLER_REVISION, res, owner, selector)
    held.sort(key=lambda r: (r.get("revision", 0), r["metadata"]["name"]))
    wanted = content(owner)
    newest = held[-1].get("revision", 0) if held else 0
    same = next((r for r in reversed(held) if r.get("data") == wanted), None)
    if same is not None:
        if same.get("revision") != newest:  # an old template came back: it is the newest again
            same = await parts.change(objects, CONTROLLER_REVISION, same, lambda r: {**r, "revision": newest + 1})
        return same, sorted((same if r["metadata"]["uid"] == same["metadata"]["uid"] else r for r in held), key=_number)
    hash_ = content_hash(wanted)
    labels = (owner["spec"]["template"].get("metadata") or {}).get("labels") or {}
    body = {
        "metadata": {
            "name": f"{owner['metadata']['name']}-{hash_}",
            "labels": {**labels, HASH: hash_},
            "annotations": _cause(owner),
            "ownerReferences": [parts.owner_reference(res, owner)],
        },
        "data": wanted,
        "revision": newest + 1,
    }
    made = await objects.create(
        CONTROLLER_REVISION, owner["metadata"]["namespace"], body, WriteOptions(field_manager=manager)
    )
    return made, [*held, made]


def _number(revision: Json) -> int:
    return int(revision.get("revision", 0))


def _cause(owner: Json) -> dict[str, str]:
    text = (owner["metadata"].get("annotations") or {}).get("kubernetes.io/change-cause")
    return {"kubernetes.io/change-cause": text} if text else {}


async def forget(objects: Objects, owner: Json, held: list[Json], used: set[str]) -> None:
    """Delete the oldest revisions beyond the limit that no pod has."""
    limit = owner["spec"].get("revisionHistoryLimit")
    idle = [r for r in held if (r["metadata"].get("labels") or {}).get(HASH) not in used]
    surplus = len(idle) - (10 if limit is None else limit)
    if surplus > 0:
        await parts.delete_all(objects, CONTROLLER_REVISION, idle[:surplus])

"""What the workload controllers share: pods from templates, adoption and release, readiness, status writes."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from kubeapi.conditions import condition, is_true
from kubeapi.controllers.index import Index, controller_of
from kubeapi.durations import parse_time
from kubeapi.errors import ApiError
from kubeapi.label_selectors import label_test
from kubeapi.objects import DeleteOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.stored import DELETED, Event
from proto.kit.database import Tx

Json = dict[str, Any]
FINISHED = ("Failed", "Succeeded")
AT_ONCE = 256  # writes of one controller in flight: they share commits


def owner_reference(res: Resource, owner: Json) -> Json:
    """Return the reference by which ``owner`` controls another object."""
    metadata = owner["metadata"]
    return {
        "apiVersion": res.api_version,
        "kind": res.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod_of(res: Resource, owner: Json, template: Json, **labels: str) -> Json:
    """Return the body of a new pod of ``owner`` by its template."""
    metadata = template.get("metadata") or {}
    made: Json = {
        "generateName": f"{owner['metadata']['name']}-",
        "labels": {**(metadata.get("labels") or {}), **labels},
        "ownerReferences": [owner_reference(res, owner)],
    }
    for key in ("annotations", "finalizers"):
        if metadata.get(key):
            made[key] = metadata[key]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": dict(template.get("spec") or {})}


def only_status(event: Event) -> bool:
    """Whether a change is one of status alone: what a controller writes itself must not wake it."""
    old, new = event.previous, event.object
    if old is None or event.type == DELETED:
        return False
    unseen = ("resourceVersion", "managedFields")
    return all(
        {k: v for k, v in old["metadata"].items() if k not in unseen}
        == {k: v for k, v in new["metadata"].items() if k not in unseen}
        if key == "metadata"
        else old.get(key) == new.get(key)
        for key in {*old, *new} - {"status"}
    )


def unnamed(error: ApiError, body: Json) -> str:
    """Return why a generated object was refused, without its random name: the same refusal is the same sentence."""
    name, prefix = str(error.details.get("name", "")), body["metadata"].get("generateName", "")
    return error.message.replace(f'"{name}"', f'"{prefix}"') if name and prefix else error.message


def is_deleting(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_active(pod: Json) -> bool:
    """Whether a pod counts: neither finished nor on its way out."""
    return not is_deleting(pod) and (pod.get("status") or {}).get("phase") not in FINISHED


def is_ready(pod: Json) -> bool:
    return is_true(pod.get("status") or {}, "Ready")


def available_in_s(pod: Json, min_ready_s: int, now: datetime) -> float | None:
    """Return in how many seconds a pod is available: 0 now, None while it is not ready."""
    ready = condition(pod.get("status") or {}, "Ready")
    if ready is None or ready.get("status") != "True":
        return None
    since = parse_time(ready.get("lastTransitionTime"))
    if not min_ready_s or since is None:
        return 0.0
    return max(0.0, min_ready_s - (now - since).total_seconds())


def claimed(index: Index, owner: Json, selector: Any) -> tuple[list[Json], list[Json], list[Json]]:
    """Return (kept, to release, to adopt) of the objects that ``owner`` may control. Pure reading."""
    metadata = owner["metadata"]
    test = label_test(selector)
    kept: list[Json] = []
    release: list[Json] = []
    for obj in index.get(("owner", metadata["uid"])):
        if obj["metadata"].get("namespace") == metadata.get("namespace"):
            (kept if test(obj["metadata"].get("labels") or {}) else release).append(obj)
    adopt = [
        obj
        for obj in index.get(("orphan", metadata.get("namespace", "")))
        if not is_deleting(obj) and test(obj["metadata"].get("labels") or {})
    ]
    return kept, release, adopt


async def claim(
    objects: Objects, index: Index, res: Resource, owner_res: Resource, owner: Json, selector: Any
) -> list[Json]:
    """Adopt what is free and selected, release what is not selected any more; return what ``owner`` controls."""
    kept, release, adopt = claimed(index, owner, selector)
    if is_deleting(owner) or not (release or adopt):
        return kept

    def write(tx: Tx) -> list[Json]:
        for obj in release:
            _change_owner(objects, tx, res, obj, owner["metadata"]["uid"], None)
        out = [_change_owner(objects, tx, res, obj, "", owner_reference(owner_res, owner)) for obj in adopt]
        return [obj for obj in out if obj is not None]

    return kept + await objects.store.db.tx(write)


def _change_owner(objects: Objects, tx: Tx, res: Resource, obj: Json, drop: str, add: Json | None) -> Json | None:
    """Take the reference to ``drop`` away, or add one where there is still no controller."""
    metadata = obj["metadata"]
    found = objects.store.peek(res, metadata["namespace"], metadata["name"])
    if found is None or found.object["metadata"]["uid"] != metadata["uid"]:
        return None
    held = found.object
    if add is not None and controller_of(held) is not None:
        return None
    owners = [o for o in held["metadata"].get("ownerReferences") or () if not drop or o.get("uid") != drop]
    changed = {k: v for k, v in held["metadata"].items() if k != "ownerReferences"}
    if owners or add is not None:
        changed["ownerReferences"] = [*owners, *([add] if add is not None else [])]
    return objects.settle(tx, res, held, {**held, "metadata": changed}, WriteOptions())


async def write_status(objects: Objects, res: Resource, obj: Json, status: Json) -> Json:
    """Store a status if it says something new; returns the object as it then is. Raises 404."""
    return await change(objects, res, obj, lambda held: {**held, "status": status})


async def change(objects: Objects, res: Resource, obj: Json, make: Callable[[Json], Json]) -> Json:
    """Store what ``make`` makes of the object as it is now. Raises 404 when it is gone or another by that name."""
    metadata = obj["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    held = objects.store.get(res, namespace, name)
    if held is not None and held["metadata"]["uid"] == metadata["uid"] and make(held) == held:
        return held

    def write(tx: Tx) -> Json:
        found = objects.store.peek(res, namespace, name)
        if found is None or found.object["metadata"]["uid"] != metadata["uid"]:
            raise ApiError(404, "NotFound", f'{res.plural} "{name}" is gone')
        return objects.settle(tx, res, found.object, make(found.object), WriteOptions())

    return await objects.store.db.tx(write)


async def create_all(
    objects: Objects, res: Resource, namespace: str, bodies: list[Json], manager: str
) -> list[Json | ApiError]:
    """Create many objects: the first alone, so that what refuses one is asked once, then the others together."""
    if not bodies:
        return []
    out = [await _create(objects, res, namespace, bodies[0], manager)]
    if isinstance(out[0], ApiError):
        return out
    for at in range(1, len(bodies), AT_ONCE):
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_create(objects, res, namespace, body, manager)) for body in bodies[at : at + AT_ONCE]
            ]
        out += [task.result() for task in tasks]
    return out


async def _create(objects: Objects, res: Resource, namespace: str, body: Json, manager: str) -> Json | ApiError:
    try:
        return await objects.create(res, namespace, body, WriteOptions(field_manager=manager))
    except ApiError as error:
        return error


async def delete_all(
    objects: Objects, res: Resource, victims: Iterable[Json], grace_s: int | None = None
) -> list[Json]:
    """Delete these very objects in one transaction; those already gone are left out of what is returned."""
    chosen = list(victims)

    def write(tx: Tx) -> list[Json]:
        done = []
        for obj in chosen:
            metadata = obj["metadata"]
            found = objects.store.peek(res, metadata.get("namespace", ""), metadata["name"])
            if found is not None and found.object["metadata"]["uid"] == metadata["uid"]:
                opts = DeleteOptions(uid=metadata["uid"], grace_period_s=grace_s)
                objects.delete_in(tx, res, metadata.get("namespace", ""), metadata["name"], opts)
                done.append(obj)
        return done

    return await objects.store.db.tx(write) if chosen else []


def share(value: Any, total: int, *, up: bool) -> int:
    """Return a count or a percentage of ``total``, rounded up or down."""
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * total
        return -(-exact // 100) if up else exact // 100
    return int(value or 0)

"""Pure steps of a write: from what is stored and what was sent to what will be stored."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from kubeapi import metadata as rules
from kubeapi.errors import FORBIDDEN, INVALID, ApiError, Cause, bad_request, conflict, invalid
from kubeapi.resources import Resource
from proto.kit.backoff import Rng
from proto.kit.clock import rfc3339

NOT_SPEC = ("apiVersion", "kind", "metadata", "status")


def new_uid(rng: Rng) -> str:
    """Return a version 4 UUID from an injected random source."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def check_shape(res: Resource, namespace: str, body: Any, name: str = "") -> None:
    """Raise 400 or 422 unless ``body`` is an object of this kind, for this namespace and (when given) this name."""
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object of kind {res.kind}")
    given = (body.get("apiVersion") or res.api_version, body.get("kind") or res.kind)
    if given != (res.api_version, res.kind):
        raise bad_request(
            f"the object in the body is {given[1]} in version {given[0]}; this path takes {res.kind} in version {res.api_version}"
        )
    body["apiVersion"], body["kind"] = given
    if body.get("metadata") is None:
        body["metadata"] = {}
    wrong = rules.shape_causes(body["metadata"])
    if wrong:
        raise invalid(res, name, wrong)
    metadata = body["metadata"]
    sent_namespace = metadata.get("namespace") or ""
    if res.namespaced:
        if sent_namespace not in ("", namespace):
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the request: "
                f"{sent_namespace} is not {namespace}"
            )
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if name and (metadata.get("name") or name) != name:
        raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    if name:
        metadata["name"] = name


def check_names_itself(body: Any, name: str) -> None:
    """Raise 400 for a replacement that does not say what it replaces: ``{}`` would empty the object."""
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if isinstance(metadata, dict | None) and not (metadata or {}).get("name"):
        raise bad_request(f"the name of the object ({name} based on URL) was undeterminable: metadata.name is missing")


def check_conditional(res: Resource, body: Mapping[str, Any], name: str) -> None:
    """Raise 422 for a replacement without resourceVersion of a kind that nobody may overwrite unseen."""
    if (res.custom or not res.unconditional_update) and body["metadata"].get("resourceVersion") in (None, "", "0"):
        why = "Invalid value: 0x0: must be specified for an update"
        raise invalid(res, name, [Cause(INVALID, "metadata.resourceVersion", why)])


def for_create(res: Resource, body: dict[str, Any], now: datetime, rng: Rng) -> dict[str, Any]:
    """Return ``body`` with the system's own metadata set."""
    metadata = body["metadata"]
    for key in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"):
        metadata.pop(key, None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = rules.generated_name(metadata["generateName"], rng)
    metadata["uid"] = new_uid(rng)
    metadata["creationTimestamp"] = rfc3339(now)
    if res.generation:
        metadata["generation"] = 1
    if "status" in res.subresources:
        body.pop("status", None)
    return _ordered(body)


def without_made_up(res: Resource, obj: dict[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new object without what neither its sender nor a default says: the status, and how a Job finds its own pods."""
    out = {k: v for k, v in obj.items() if k != "status" or "status" not in res.subresources}
    if res.kind != "Job" or res.custom:
        return out
    spec, before = dict(out["spec"]), sent["spec"]
    if "selector" not in before:
        spec.pop("selector", None)
    spec["template"] = _labelled_as(spec["template"], before["template"])
    return {**_labelled_as(out, sent), "spec": spec}


def _labelled_as(obj: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    if not sent.get("metadata"):
        return {k: v for k, v in obj.items() if k != "metadata"}
    labels = sent["metadata"].get("labels")
    metadata = {k: v for k, v in obj["metadata"].items() if k != "labels"}
    return {**obj, "metadata": {**metadata, **({"labels": labels} if labels else {})}}


def for_update(res: Resource, old: dict[str, Any], body: dict[str, Any], subresource: str) -> dict[str, Any]:
    """Return what an update through ``subresource`` ("" is the object itself) makes of ``old``. Raises 409, 422."""
    sent, held = body["metadata"], old["metadata"]
    check_preconditions(res, held, uid=sent.get("uid") or "", revision=sent.get("resourceVersion") or "")
    if subresource:
        out = dict(old)
        for key in subresource_fields(subresource):
            if key in body:
                out[key] = body[key]
            else:
                out.pop(key, None)
        out["metadata"] = dict(held)
        if sent.get("managedFields") is not None:
            out["metadata"]["managedFields"] = sent["managedFields"]
        return out
    out = dict(body)
    metadata = {k: v for k, v in sent.items() if k not in rules.SYSTEM_FIELDS and k != "resourceVersion"}
    metadata.update({k: held[k] for k in (*rules.SYSTEM_FIELDS, "resourceVersion") if k in held})
    if "generateName" in held:
        metadata.setdefault("generateName", held["generateName"])
    out["metadata"] = metadata
    if "status" in res.subresources:
        out.pop("status", None)
        if "status" in old:
            out["status"] = old["status"]
    if "deletionTimestamp" in held:
        added = set(metadata.get("finalizers") or ()) - set(held.get("finalizers") or ())
        if added:
            text = f"Forbidden: no new finalizers can be added if the object is being deleted, found {', '.join(sorted(added))}"
            raise invalid(res, held["name"], [Cause(FORBIDDEN, "metadata.finalizers", text)])
    return _ordered(out)


def subresource_fields(subresource: str) -> tuple[str, ...]:
    """Return the top-level fields that a write through ``subresource`` may change."""
    return {"finalize": ("spec",), "ephemeralcontainers": ("spec",), "resize": ("spec",)}.get(subresource, ("status",))


def check_preconditions(res: Resource, held: Mapping[str, Any], *, uid: str, revision: str) -> None:
    """Raise 409 unless the object is the one that the caller has seen; "" is not asked."""
    if uid and uid != held["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {held['uid']}"
        raise conflict(res, held["name"], why)
    if revision not in ("", "0", held["resourceVersion"]):
        raise conflict(res, held["name"])


def spec_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether anything but metadata and status differs."""
    keys = {*old, *new}.difference(NOT_SPEC)
    return any(old.get(k) != new.get(k) for k in keys)


def check_immutable(res: Resource, old: Mapping[str, Any], new: Mapping[str, Any], subresource: str = "") -> None:
    """Raise 422 when a field that may not change does."""
    if res.custom:
        return
    from kubeapi.immutables import changes  # noqa: PLC0415  an edge that writes nothing of these kinds never asks

    wrong = changes(res.kind, old, new, subresource)
    if wrong:
        raise invalid(res, old["metadata"]["name"], wrong)


def _ordered(obj: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its usual first keys first, for people who read it."""
    out: dict[str, Any] = {k: obj[k] for k in ("apiVersion", "kind", "metadata") if k in obj}
    out.update(obj)
    return out


def manager_name(field_manager: str, user: Any) -> str:
    """Return who owns the fields of this write: what the client says, else its user's first word."""
    name = field_manager or str(getattr(user, "name", user) or "unknown").split("/", maxsplit=1)[0]
    if len(name) > 128:
        raise ApiError(422, "Invalid", "fieldManager: Too long: may not be more than 128 characters")
    return name

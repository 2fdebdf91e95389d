"""Which patch language a request speaks, and how to read it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kubeapi import bodies
from kubeapi.errors import bad_request, unsupported_media_type
from kubeapi.options import WriteOptions
from kubeapi.patch.jsonpatch import json_patch
from kubeapi.patch.merge import merge_patch
from kubeapi.resources import Resource

Json = dict[str, Any]
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY)


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_apply(content_type: str) -> bool:
    return media_type(content_type) == APPLY


def reader(res: Resource, patch: bytes, content_type: str, opts: WriteOptions) -> Callable[[Json], Json]:
    """Return a function from the old object to the patched one. Raises 400, 415."""
    kind = media_type(content_type)
    allowed = tuple(t for t in TYPES if t != STRATEGIC or not res.custom)
    if kind not in allowed:
        raise unsupported_media_type(kind or "no Content-Type", allowed)
    value = bodies.decode_json(patch)
    if opts.field_validation != "Ignore" and not opts.duplicates:
        opts.duplicates = bodies.duplicate_fields(patch)
    if kind == JSON_PATCH:
        return lambda old: _own(json_patch(old, value))
    if not isinstance(value, dict):
        raise bad_request("the patch must be a JSON object")
    if kind == MERGE_PATCH:
        return lambda old: _own(merge_patch(old, value))
    from kubeapi.patch.strategic import strategic_patch  # noqa: PLC0415  loads the schemas of the built-ins

    return lambda old: _own(strategic_patch(res, old, value))


def _own(value: Any) -> Json:
    """Return the outer levels as new dicts: the patched object shares the rest with the old one."""
    if not isinstance(value, dict):
        raise bad_request("the patched object is no longer a JSON object")
    out = dict(value)
    if isinstance(out.get("metadata"), dict):
        out["metadata"] = dict(out["metadata"])
    return out


def read_apply(res: Resource, patch: bytes, opts: WriteOptions) -> Json:
    """Parse an apply configuration (YAML or JSON). Raises 400."""
    if not opts.field_manager:
        raise bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
        )
    stripped = patch.lstrip()
    value = bodies.decode_json(patch) if stripped.startswith(b"{") else bodies.decode_yaml(patch)
    if not isinstance(value, dict):
        raise bad_request(f"an apply configuration is an object of kind {res.kind}")
    for key in ("apiVersion", "kind"):
        if not value.get(key):
            raise bad_request(f"{key} must be set in an apply configuration")
    return value


def apply(res: Resource, old: Json | None, config: Json, opts: WriteOptions, subresource: str, now: datetime) -> Json:
    """Return ``old`` (None: nothing) with the configuration applied and its managedFields. Raises 409 with causes."""
    from kubeapi.patch.apply import apply_patch  # noqa: PLC0415  loads the schemas of the built-ins

    return apply_patch(res, old, config, manager=opts.field_manager, force=opts.force, subresource=subresource, now=now)

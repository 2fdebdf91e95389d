"""Whether a CRD's schema is structural: each node typed, no references, value rules only where values are."""

import re
from typing import Any

from kubeapi.errors import FORBIDDEN, INVALID, NOT_SUPPORTED, REQUIRED, Cause
from kubeapi.schema import Checker
from kubeapi.typed import Type

Json = dict[str, Any]
TYPES = ("array", "boolean", "integer", "number", "object", "string")
MAX_SCHEMA_CAUSES = 20
LIST_TYPES = ("atomic", "map", "set")
INT_OR_STRING = "x-kubernetes-int-or-string"
PRESERVE = "x-kubernetes-preserve-unknown-fields"


def structural_causes(schema: Json, path: str) -> list[Cause]:
    """Return what keeps a root schema from being structural, at most 20."""
    out: list[Cause] = []
    if schema.get("type") != "object":
        out.append(
            Cause(INVALID, f"{path}.type", f'Invalid value: "{schema.get("type", "")}": must be object at the root')
        )
    _node(schema, path, out)
    return out[:MAX_SCHEMA_CAUSES]


def _node(schema: Any, path: str, out: list[Cause]) -> None:
    if not isinstance(schema, dict):
        out.append(Cause(INVALID, path, "Invalid value: must be a schema object"))
        return
    if len(out) >= MAX_SCHEMA_CAUSES:
        return
    kind = schema.get("type")
    if not kind and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        out.append(Cause(REQUIRED, f"{path}.type", "Required value: must not be empty for specified object fields"))
    elif kind and kind not in TYPES:
        listed = ", ".join(f'"{t}"' for t in TYPES)
        out.append(Cause(NOT_SUPPORTED, f"{path}.type", f'Unsupported value: "{kind}": supported values: {listed}'))
    out += [
        Cause(FORBIDDEN, f"{path}.{key}", f"Forbidden: {key} is not supported in a structural schema")
        for key in ("$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "uniqueItems")
        if schema.get(key) not in (None, False)
    ]
    _rules(schema, path, out)
    _children(schema, path, out)
    if "default" in schema:
        checker = Checker(drop_nulls=False)
        checker.check(Type(schema, lambda _: {}, structural=True), schema["default"], f"{path}.default")
        out += [*checker.found.types, *checker.found.causes]


def _rules(schema: Json, path: str, out: list[Cause]) -> None:
    pattern = schema.get("pattern")
    if pattern is not None:
        try:
            re.compile(pattern.replace(r"\z", r"\Z"))
        except (re.error, AttributeError) as error:
            out.append(Cause(INVALID, f"{path}.pattern", f"Invalid value: not a regular expression: {error}"))
    list_type = schema.get("x-kubernetes-list-type")
    if list_type is not None and list_type not in LIST_TYPES:
        listed = ", ".join(f'"{t}"' for t in LIST_TYPES)
        text = f'Unsupported value: "{list_type}": supported values: {listed}'
        out.append(Cause(NOT_SUPPORTED, f"{path}.x-kubernetes-list-type", text))
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if list_type == "map" and not keys:
        text = "Required value: must not be empty if x-kubernetes-list-type is map"
        out.append(Cause(REQUIRED, f"{path}.x-kubernetes-list-map-keys", text))
    item_properties = (
        (schema.get("items") or {}).get("properties") or {} if isinstance(schema.get("items"), dict) else {}
    )
    for key in keys:
        if key not in item_properties:
            text = f'Invalid value: "{key}": entries must all be names of item properties'
            out.append(Cause(INVALID, f"{path}.x-kubernetes-list-map-keys", text))


def _children(schema: Json, path: str, out: list[Cause]) -> None:
    properties = schema.get("properties")
    if properties is not None and not isinstance(properties, dict):
        out.append(Cause(INVALID, f"{path}.properties", "Invalid value: must be an object"))
        properties = None
    for name, child in (properties or {}).items():
        if name == "metadata" and path.endswith("openAPIV3Schema"):
            continue
        _node(child, f"{path}.properties[{name}]", out)
    extra = schema.get("additionalProperties")
    if extra is False or (properties and isinstance(extra, dict)):
        text = "Forbidden: additionalProperties and properties are mutual exclusive, and false is not supported"
        out.append(Cause(FORBIDDEN, f"{path}.additionalProperties", text))
    elif isinstance(extra, dict) and extra:
        _node(extra, f"{path}.additionalProperties", out)
    if schema.get("type") == "array":
        if "items" not in schema:
            out.append(Cause(REQUIRED, f"{path}.items", "Required value: must be specified"))
        else:
            _node(schema["items"], f"{path}.items", out)

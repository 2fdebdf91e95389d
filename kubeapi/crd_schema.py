"""Whether a CRD's schema is structural: each node typed, no references, value rules only where values are."""

import re
from typing import Any

from kubeapi.errors import FORBIDDEN, INVALID, NOT_SUPPORTED, REQUIRED, Cause
from kubeapi.schema import Checker, json_type
from kubeapi.typed import Type

Json = dict[str, Any]
TYPES = ("array", "boolean", "integer", "number", "object", "string")
MAX_SCHEMA_CAUSES = 20
LIST_TYPES = ("atomic", "map", "set")
INT_OR_STRING = "x-kubernetes-int-or-string"
PRESERVE = "x-kubernetes-preserve-unknown-fields"
_BOOLEANS = (
    "nullable", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems", INT_OR_STRING, PRESERVE,
    "x-kubernetes-embedded-resource",
)  # fmt: skip
_INTEGERS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_STRINGS = ("type", "format", "pattern", "title", "description", "x-kubernetes-list-type", "x-kubernetes-map-type")
# JSON types that each keyword may have; the OpenAPI of the CRD itself leaves some open
KEYWORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_BOOLEANS, ("boolean",)),
    **dict.fromkeys(_INTEGERS, ("integer",)),
    **dict.fromkeys(_STRINGS, ("string",)),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), ("integer", "number")),
    **dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "x-kubernetes-list-map-keys"), ("array",)),
    **dict.fromkeys(("properties", "items", "not"), ("object",)),
    "additionalProperties": ("object", "boolean"),
}
TEXT_LISTS = ("required", "x-kubernetes-list-map-keys")


def structural_causes(schema: Json, path: str) -> list[Cause]:
    """Return what keeps a root schema from being structural, at most 20."""
    out: list[Cause] = []
    if schema.get("type") != "object":
        out.append(
            Cause(INVALID, f"{path}.type", f'Invalid value: "{schema.get("type", "")}": must be object at the root')
        )
    _node(schema, path, out)
    return out[:MAX_SCHEMA_CAUSES]


def _node(schema: Any, path: str, out: list[Cause], *, values_only: bool = False) -> None:
    """Note what is wrong with one node; ``values_only`` inside anyOf and its like, where no type is needed."""
    if not isinstance(schema, dict):
        out.append(Cause(INVALID, path, "Invalid value: must be a schema object"))
        return
    if len(out) >= MAX_SCHEMA_CAUSES:
        return
    wrong = _keyword_causes(schema, path)
    if wrong:
        out += wrong
        return
    kind = schema.get("type")
    if not kind and not values_only and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        out.append(Cause(REQUIRED, f"{path}.type", "Required value: must not be empty for specified object fields"))
    elif kind and kind not in TYPES:
        listed = ", ".join(f'"{t}"' for t in TYPES)
        out.append(Cause(NOT_SUPPORTED, f"{path}.type", f'Unsupported value: "{kind}": supported values: {listed}'))
    out += [
        Cause(FORBIDDEN, f"{path}.{key}", f"Forbidden: {key} is not supported in a structural schema")
        for key in ("$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "uniqueItems")
        if schema.get(key) not in (None, False)
    ]
    before = len(out)
    _rules(schema, path, out)
    _children(schema, path, out, values_only=values_only)
    if "default" in schema and len(out) == before:
        checker = Checker(drop_nulls=False)
        checker.check(Type(schema, lambda _: {}, structural=True), schema["default"], f"{path}.default")
        out += [*checker.found.types, *checker.found.causes]


def _keyword_causes(schema: Json, path: str) -> list[Cause]:
    out = []
    for key, value in schema.items():
        allowed = KEYWORDS.get(key)
        if allowed is not None and json_type(value) not in allowed:
            text = f'Invalid value: "{json_type(value)}": must be of type {" or ".join(allowed)}'
            out.append(Cause(INVALID, f"{path}.{key}", text))
        elif key in TEXT_LISTS and not all(isinstance(v, str) for v in value):
            out.append(Cause(INVALID, f"{path}.{key}", "Invalid value: must be an array of string"))
        elif key == "multipleOf" and value <= 0:
            out.append(Cause(INVALID, f"{path}.{key}", "Invalid value: must be greater than 0"))
    return out


def _rules(schema: Json, path: str, out: list[Cause]) -> None:
    pattern = schema.get("pattern")
    if pattern is not None:
        try:
            re.compile(pattern.replace(r"\z", r"\Z"))
        except re.error as error:
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
    item_properties = schema.get("items", {}).get("properties")
    for key in keys:
        if not isinstance(item_properties, dict) or key not in item_properties:
            text = f'Invalid value: "{key}": entries must all be names of item properties'
            out.append(Cause(INVALID, f"{path}.x-kubernetes-list-map-keys", text))


def _children(schema: Json, path: str, out: list[Cause], *, values_only: bool) -> None:
    properties = schema.get("properties", {})
    for name, child in properties.items():
        if name != "metadata" or not path.endswith("openAPIV3Schema"):
            _node(child, f"{path}.properties[{name}]", out, values_only=values_only)
    extra = schema.get("additionalProperties")
    if extra is False or (properties and isinstance(extra, dict)):
        text = "Forbidden: additionalProperties and properties are mutual exclusive, and false is not supported"
        out.append(Cause(FORBIDDEN, f"{path}.additionalProperties", text))
    elif isinstance(extra, dict) and extra:
        _node(extra, f"{path}.additionalProperties", out, values_only=values_only)
    if "items" in schema:
        _node(schema["items"], f"{path}.items", out, values_only=values_only)
    elif schema.get("type") == "array" and not values_only:
        out.append(Cause(REQUIRED, f"{path}.items", "Required value: must be specified"))
    for key in ("allOf", "anyOf", "oneOf"):
        for i, child in enumerate(schema.get(key, ())):
            _node(child, f"{path}.{key}[{i}]", out, values_only=True)
    if "not" in schema:
        _node(schema["not"], f"{path}.not", out, values_only=True)

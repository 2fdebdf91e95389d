"""A schema made ready for use: one ``Type`` per node, for validation, defaults, ownership and the patches.

Built-ins are compiled from ``kubeapi.schemas``, custom kinds from their CRD; ``metadata`` is the same for all.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kubeapi.constraints import Constraint, constraints_of
from kubeapi.resources import Resource
from kubeapi.schemas import REFERENCE, definitions, schema_of

Schema = Mapping[str, Any]
UNSET: Any = object()
KEY_DEFAULTS = {"protocol": "TCP"}  # keys of list items that may be left out (ports)
STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}

METADATA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{
            k: {"type": "string"}
            for k in (
                "name", "generateName", "namespace", "uid", "resourceVersion", "selfLink", "creationTimestamp",
                "deletionTimestamp",
            )
        },
        "generation": {"type": "integer"},
        "deletionGracePeriodSeconds": {"type": "integer"},
        "labels": STRINGS,
        "annotations": STRINGS,
        "finalizers": {
            "type": "array",
            "items": {"type": "string"},
            "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge",
        },
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": "uid",
            "items": {
                "type": "object",
                "x-kubernetes-map-type": "atomic",
                "properties": {
                    **{k: {"type": "string"} for k in ("apiVersion", "kind", "name", "uid")},
                    "controller": {"type": "boolean"},
                    "blockOwnerDeletion": {"type": "boolean"},
                },
            },
        },
        "managedFields": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    },
}  # fmt: skip


class Type:
    """One node of a schema. Children are compiled when first asked for, because schemas may be recursive."""

    __slots__ = (
        "_children", "_defaulted", "_item", "_resolve", "_ruled", "_schema", "_value", "alternatives", "atomic", "constraints",
        "default", "embedded", "format", "int_or_string", "list_keys", "list_type", "merge_key", "name", "nullable", "preserve",
        "properties", "required", "rules", "scalar", "strategies", "structural",
    )  # fmt: skip

    def __init__(self, schema: Schema, resolve: Callable[[str], Schema], *, structural: bool = False) -> None:
        schema = _deref(schema, resolve)
        self.structural = structural  # a CRD's: an object without properties has none, where a built-in's may have any
        self._schema = schema
        self._resolve = resolve
        self.name: str = schema.get("type", "")  # JSON type; "" is any
        self.properties: Mapping[str, Any] = schema.get("properties") or {}
        self.required: tuple[str, ...] = tuple(schema.get("required") or ())
        self.nullable = bool(schema.get("nullable"))
        self.int_or_string = bool(schema.get("x-kubernetes-int-or-string")) or schema.get("format") == "int-or-string"
        self.embedded = bool(schema.get("x-kubernetes-embedded-resource"))
        untyped = not self.name and not self.properties and not self.int_or_string
        open_map = schema.get("additionalProperties") is True or schema.get("additionalProperties") == {}
        bare_object = self.name == "object" and not self.properties and "additionalProperties" not in schema
        self.preserve = (
            bool(schema.get("x-kubernetes-preserve-unknown-fields"))
            or untyped
            or open_map
            or (bare_object and not structural)
        )
        self.default: Any = schema.get("default", UNSET)
        self.list_type: str = schema.get("x-kubernetes-list-type", "atomic")
        self.list_keys: tuple[str, ...] = tuple(schema.get("x-kubernetes-list-map-keys") or ())
        self.atomic = schema.get("x-kubernetes-map-type") == "atomic"
        self.merge_key: str = schema.get("x-kubernetes-patch-merge-key", "")
        self.strategies: tuple[str, ...] = tuple(filter(None, schema.get("x-kubernetes-patch-strategy", "").split(",")))
        self.constraints: tuple[Constraint, ...] = constraints_of(schema)
        self.rules: tuple[Any, ...] = tuple(schema.get("x-kubernetes-validations") or ())  # CEL: kubeapi.cel_rules
        self.format: str = schema.get("format", "")
        self.alternatives = {k: schema[k] for k in ("allOf", "anyOf", "oneOf", "not") if k in schema}
        # a plain text or boolean needs no walk: its Python type says it all
        plain = not self.constraints and not self.alternatives and not self.int_or_string
        self.scalar: type | None = {"string": str, "boolean": bool}.get(self.name) if plain else None
        self._ruled: bool | None = None
        self._defaulted: tuple[str, ...] | None = None
        self._children: dict[str, Type] = {}
        self._item: Type | None = None
        self._value: Type | None = None

    def child(self, name: str) -> "Type | None":
        """Return the type of the field ``name``; None when the schema does not know it."""
        found = self._children.get(name)
        if found is None:
            if name in self.properties:
                found = self._children[name] = Type(self.properties[name], self._resolve, structural=self.structural)
            elif self.embedded and name in ("apiVersion", "kind"):
                found = self._children[name] = Type({"type": "string"}, self._resolve)
            elif self.embedded and name == "metadata":
                found = self._children[name] = Type(METADATA, self._resolve)
            else:
                return self.values
        return found

    @property
    def defaulted(self) -> tuple[str, ...]:
        """The fields that have a default."""
        if self._defaulted is None:
            children = ((name, self.child(name)) for name in self.properties)
            self._defaulted = tuple(n for n, child in children if child is not None and child.default is not UNSET)
        return self._defaulted

    @property
    def ruled(self) -> bool:
        """Whether there are rules here or below. Only asked of a CRD's types: a built-in's may be recursive."""
        if self._ruled is None:
            below = [self.child(name) for name in self.properties if self.properties[name] is not METADATA]
            self._ruled = bool(self.rules) or any(t is not None and t.ruled for t in (*below, self.values, self.item))
        return self._ruled

    @property
    def values(self) -> "Type | None":
        """The type of a map's values; None when this is no map."""
        if self._value is None:
            extra = self._schema.get("additionalProperties")
            if isinstance(extra, Mapping):
                self._value = Type(extra, self._resolve, structural=self.structural)
        return self._value

    @property
    def item(self) -> "Type | None":
        """The type of a list's items."""
        if self._item is None and isinstance(self._schema.get("items"), Mapping):
            self._item = Type(self._schema["items"], self._resolve, structural=self.structural)
        return self._item

    def derived(self, schema: Schema) -> "Type":
        """Return the Type of a sub-schema under anyOf, oneOf, allOf or not."""
        return Type({"x-kubernetes-preserve-unknown-fields": True, **schema}, self._resolve)

    def item_key(self, item: Any) -> dict[str, Any] | None:
        """Return the key of an item of a ``map`` list; None when the item is not an object or has no key."""
        if not isinstance(item, dict):
            return None
        item_type = self.item
        out = {}
        for key in self.list_keys:
            value = item.get(key)
            if value is None and item_type is not None:
                known = item_type.child(key)
                value = None if known is None or known.default is UNSET else known.default
            if value is None:
                value = KEY_DEFAULTS.get(key)
            if value is not None:
                out[key] = value
        return out or None


def _deref(schema: Schema, resolve: Callable[[str], Schema]) -> Schema:
    """Follow ``$ref`` (also as a single ``allOf``), keeping what stands beside it."""
    wrapped = schema.get("allOf")
    if isinstance(wrapped, list) and len(wrapped) == 1 and "$ref" in wrapped[0]:
        schema = {**{k: v for k, v in schema.items() if k != "allOf"}, **wrapped[0]}
    if "$ref" not in schema:
        return schema
    beside = {k: v for k, v in schema.items() if k not in ("$ref", "description")}
    target = _deref(resolve(schema["$ref"].removeprefix(REFERENCE)), resolve)
    return {**target, **beside} if beside else target


def _builtin(name: str) -> Schema:
    if name == "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":
        return METADATA
    return definitions().get(name, {})


_types: dict[tuple[str, str, str], tuple[Any, Type]] = {}  # (group, version, plural) -> (schema it came from, Type)


def type_of(res: Resource) -> Type:
    """Return the kind's Type; compiled once, again when its CRD changes."""
    key = (res.group, res.version, res.plural)
    held = _types.get(key)
    if held is not None and held[0] is res.schema:
        return held[1]
    made = _custom_type(res) if res.custom else Type(schema_of(res), _builtin)
    _types[key] = (res.schema, made)
    return made


def _custom_type(res: Resource) -> Type:
    schema = dict(res.schema or {"x-kubernetes-preserve-unknown-fields": True})
    own = schema.get("properties") or {}
    system: dict[str, Any] = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": METADATA}
    schema["type"] = "object"
    schema["properties"] = {**own, **system}
    return Type(schema, _builtin, structural=True)

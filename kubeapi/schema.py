"""An object against its schema, in one walk: prune what is unknown, drop nulls, fill defaults, name what is wrong.

Nothing given is changed: unchanged parts are shared with the result, because they are shared with what is stored.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from kubeapi.constraints import show
from kubeapi.errors import DUPLICATE, INVALID, REQUIRED, TYPE_INVALID, Cause
from kubeapi.typed import UNSET, Type

MAX_CAUSES = 50  # more help nobody; the rest is counted in one line


@dataclass(slots=True)
class Findings:
    """What a walk found. ``types`` are wrong JSON types, ``causes`` broken rules, ``unknown`` pruned paths."""

    types: list[Cause] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


_NAMES = {
    type(None): "null",
    bool: "boolean",
    str: "string",
    dict: "object",
    list: "array",
    int: "integer",
    float: "number",
}


def json_type(value: Any) -> str:
    """Return the JSON Schema name of a value's type."""
    return _NAMES.get(type(value), type(value).__name__)


def _is(value: Any, name: str) -> bool:
    found = json_type(value)
    if found == name:
        return True
    return (name == "number" and found == "integer") or (name == "integer" and found == "number" and value.is_integer())


class Checker:
    """Walks values. ``drop_nulls``: a null means "not given", as for the built-ins."""

    def __init__(self, *, drop_nulls: bool) -> None:
        self.drop_nulls = drop_nulls
        self.found = Findings()

    def check(self, kind: Type, value: Any, path: str) -> Any:
        """Return ``value`` pruned and defaulted; findings are noted."""
        if value is None:
            if not kind.nullable and not self.drop_nulls and (kind.name or kind.int_or_string):
                self._wrong_type(path, value, kind.name or "integer or string")
            return value
        if kind.int_or_string:
            if json_type(value) not in ("integer", "string"):
                self._wrong_type(path, value, "integer or string")
        elif kind.name and not _is(value, kind.name):
            self._wrong_type(path, value, kind.name)
            return value
        if isinstance(value, dict):
            value = self._object(kind, value, path)
        elif isinstance(value, list):
            value = self._list(kind, value, path)
        for constraint in kind.constraints:
            verdict = constraint(value, path)
            if verdict is not None:
                self.found.causes.append(Cause(verdict[0], path, verdict[1]))
        if kind.alternatives:
            self._alternatives(kind, value, path)
        return value

    def _wrong_type(self, path: str, value: Any, wanted: str) -> None:
        got = json_type(value)
        text = f'Invalid value: "{got}": {path or "the object"} in body must be of type {wanted}: "{got}"'
        self.found.types.append(Cause(TYPE_INVALID, path, text))

    def _object(self, kind: Type, value: dict[str, Any], path: str) -> dict[str, Any]:
        out = value
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            child = kind.child(name)
            if child is None:
                if not kind.preserve:
                    self.found.unknown.append(prefix + name)
                    out = _without(out, value, name)
                continue
            if type(item) is child.scalar:
                continue
            if item is None and not child.nullable and (self.drop_nulls or child.default is not UNSET):
                out = _without(out, value, name)
                continue
            checked = self.check(child, item, prefix + name)
            if checked is not item:
                out = dict(value) if out is value else out
                out[name] = checked
        out = self.fill_defaults(kind, out, value, prefix)
        for name in kind.required:
            if name not in out:
                self.found.causes.append(Cause(REQUIRED, prefix + name, "Required value"))
        return out

    def fill_defaults(self, kind: Type, out: dict[str, Any], given: dict[str, Any], prefix: str) -> dict[str, Any]:
        """Return ``out`` with the defaults that it lacks; ``given`` is what may not be changed."""
        for name in kind.defaulted:
            child = kind.child(name)
            if name not in out and child is not None:
                out = dict(given) if out is given else out
                out[name] = self.check(child, copy.deepcopy(child.default), prefix + name)
        return out

    def _list(self, kind: Type, value: list[Any], path: str) -> list[Any]:
        item_type = kind.item
        out = value
        if item_type is not None:
            for i, item in enumerate(value):
                if item is None and not item_type.nullable and item_type.name:
                    self._wrong_type(f"{path}[{i}]", item, item_type.name)
                    continue
                checked = self.check(item_type, item, f"{path}[{i}]")
                if checked is not item:
                    out = list(value) if out is value else out
                    out[i] = checked
        if kind.list_type != "atomic":
            self._unique(kind, out, path)
        return out

    def _unique(self, kind: Type, value: list[Any], path: str) -> None:
        seen: set[str] = set()
        for i, item in enumerate(value):
            key = kind.item_key(item) if kind.list_type == "map" else item
            if key is None:
                continue
            text = show(key)
            if text in seen:
                self.found.causes.append(Cause(DUPLICATE, f"{path}[{i}]", f"Duplicate value: {text}"))
            seen.add(text)

    def _alternatives(self, kind: Type, value: Any, path: str) -> None:
        alternatives = kind.alternatives
        for schema in alternatives.get("allOf", ()):
            self._merge(kind, schema, value, path)
        if "anyOf" in alternatives and not any(self._fits(kind, s, value, path) for s in alternatives["anyOf"]):
            self._broken(path, value, "must validate at least one schema (anyOf)", alternatives["anyOf"], kind)
        if "oneOf" in alternatives:
            fits = sum(self._fits(kind, s, value, path) for s in alternatives["oneOf"])
            if fits != 1:
                schemas = alternatives["oneOf"] if fits == 0 else []
                self._broken(path, value, "must validate one and only one schema (oneOf)", schemas, kind)
        if "not" in alternatives and self._fits(kind, alternatives["not"], value, path):
            self._broken(path, value, "must not validate the schema (not)", [], kind)

    def _merge(self, kind: Type, schema: Any, value: Any, path: str) -> None:
        inner = Checker(drop_nulls=self.drop_nulls)
        inner.check(kind.derived(schema), value, path)
        self.found.causes += [*inner.found.types, *inner.found.causes]

    def _fits(self, kind: Type, schema: Any, value: Any, path: str) -> bool:
        inner = Checker(drop_nulls=self.drop_nulls)
        inner.check(kind.derived(schema), value, path)
        return not inner.found.types and not inner.found.causes

    def _broken(self, path: str, value: Any, rule: str, schemas: list[Any], kind: Type) -> None:
        """Note a broken rule, with what the first alternatives would have wanted."""
        wanted: list[str] = []
        for schema in schemas[:5]:
            inner = Checker(drop_nulls=self.drop_nulls)
            inner.check(kind.derived(schema), value, path)
            wanted += [f"{c.field} {c.message}" for c in (*inner.found.types, *inner.found.causes)][:1]
        why = f": {'; or '.join(wanted)}" if wanted else ""
        shown = show(value) if not isinstance(value, dict | list) else '""'
        self.found.causes.append(Cause(INVALID, path, f'Invalid value: {shown}: "{path}" {rule}{why}'))


def _without(out: dict[str, Any], given: dict[str, Any], name: str) -> dict[str, Any]:
    if out is given:
        out = dict(given)
    del out[name]
    return out

"""Sets of fields in the form that Kubernetes keeps them: FieldsV1 trees.

``f:name`` is a field, ``k:{...}`` an item of a keyed list, ``v:...`` an item of a set, ``.`` the node itself. A node is a
member when it is empty or holds ``.``; the other keys are its children. All functions are pure; trees are never changed.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from kubeapi.typed import Type

Tree = dict[str, Any]
SELF = "."
_encode = msgspec.json.Encoder(order="deterministic").encode
LEAF: Tree = {}


def is_member(tree: Tree) -> bool:
    return not tree or SELF in tree


def union(a: Tree, b: Tree) -> Tree:
    """Return every field of either."""
    if not a or not b:  # a leaf met with children stays a member
        more = a or b
        return more if not more or SELF in more else {SELF: {}, **more}
    out = dict(a)
    for key, child in b.items():
        out[key] = child if key not in out else union(out[key], child)
    return out


def merge_sets(a: Tree, b: Tree) -> Tree:
    """As ``union`` at the root, where an empty tree is the empty set and not a member."""
    if not a:
        return b
    return union(a, b) if b else a


def subtract(a: Tree, b: Tree) -> Tree:
    """Return the fields of ``a`` that are not in ``b``; an empty result at the root is the empty set."""
    return _subtract(a, b, root=True) or {}


def _subtract(a: Tree, b: Tree, *, root: bool = False) -> Tree | None:
    """Return what is left of a node; None when nothing is."""
    if not a and not root:
        return None if is_member(b) else a
    out: Tree = {}
    for key, child in a.items():
        if key == SELF:
            if root or not is_member(b):
                out[key] = child
        elif key not in b:
            out[key] = child
        else:
            left = _subtract(child, b[key])
            if left is not None:
                out[key] = left
    if set(out) == {SELF}:
        return {}
    return out or None


def intersect(a: Tree, b: Tree) -> Tree:
    """Return the fields in both; empty at the root is the empty set."""
    return _intersect(a, b, root=True) or {}


def _intersect(a: Tree, b: Tree, *, root: bool = False) -> Tree | None:
    both = not root and is_member(a) and is_member(b)
    out: Tree = {}
    for key, child in a.items():
        if key != SELF and key in b:
            common = _intersect(child, b[key])
            if common is not None:
                out[key] = common
    if both:
        return {SELF: {}, **out} if out else {}
    return out or None


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every member."""
    if path and is_member(tree):
        yield path
    for key, child in tree.items():
        if key != SELF:
            yield from leaves(child, (*path, key))


def of_value(kind: Type | None, value: Any) -> Tree:
    """Return the set of fields that ``value`` mentions; atomic parts are one field."""
    if isinstance(value, dict) and value and not (kind is not None and kind.atomic):
        return {f"f:{name}": of_value(_child(kind, name), item) for name, item in value.items()}
    if isinstance(value, list) and value and kind is not None and kind.list_type in ("map", "set"):
        out: Tree = {}
        for item in value:
            key = item_name(kind, item)
            if kind.list_type == "map":
                out[key] = {SELF: {}, **of_value(kind.item, item)}
            else:
                out[key] = {}
        return out
    return {}


def _child(kind: Type | None, name: str) -> Type | None:
    return None if kind is None else kind.child(name)


def item_name(kind: Type, item: Any) -> str:
    """Return how a list item is named in a tree."""
    if kind.list_type == "set":
        return f"v:{_encode(item).decode()}"
    return f"k:{_encode(kind.item_key(item) or {}).decode()}"


def is_split(kind: Type | None, value: Any) -> bool:
    """Whether ``value`` is owned in parts (a granular map or an associative list)."""
    if isinstance(value, dict):
        return not (kind is not None and kind.atomic)
    return isinstance(value, list) and kind is not None and kind.list_type in ("map", "set")


def items_by_name(kind: Type, value: list[Any]) -> dict[str, Any]:
    return {item_name(kind, item): item for item in value}


def children(kind: Type | None, value: Any) -> dict[str, tuple[Type | None, Any]]:
    """Return the parts of a split value: tree key -> (type, value)."""
    if isinstance(value, dict):
        return {f"f:{name}": (_child(kind, name), item) for name, item in value.items()}
    if isinstance(value, list) and kind is not None:
        return {item_name(kind, item): (kind.item, item) for item in value}
    return {}


def compare(kind: Type | None, old: Any, new: Any) -> tuple[Tree, Tree]:
    """Return (changed or added, removed) fields between two values of one type. Equal parts are not walked."""
    changed: Tree = {}
    removed: Tree = {}
    if isinstance(new, dict) and isinstance(old, dict):
        for name, value in new.items():
            if name not in old:
                changed[f"f:{name}"] = _whole(_child(kind, name), value)
            elif (was := old[name]) is not value and was != value:
                _compare_part(f"f:{name}", _child(kind, name), was, value, (changed, removed))
        for name in old.keys() - new.keys():
            removed[f"f:{name}"] = _whole(_child(kind, name), old[name])
        return changed, removed
    before, after = children(kind, old), children(kind, new)
    for key, (child_kind, value) in after.items():
        if key not in before:
            changed[key] = _whole(child_kind, value)
        elif (was := before[key][1]) is not value and was != value:
            _compare_part(key, child_kind, was, value, (changed, removed))
    for key, (child_kind, value) in before.items():
        if key not in after:
            removed[key] = _whole(child_kind, value)
    return changed, removed


def _compare_part(key: str, kind: Type | None, was: Any, value: Any, found: tuple[Tree, Tree]) -> None:
    changed, removed = found
    if is_split(kind, was) and is_split(kind, value) and type(was) is type(value) and was and value:
        inner_changed, inner_removed = compare(kind, was, value)
        if inner_changed:
            changed[key] = inner_changed
        if inner_removed:
            removed[key] = inner_removed
        return
    changed[key] = of_value(kind, value)
    gone = of_value(kind, was)
    if gone:
        removed[key] = gone


def _whole(kind: Type | None, value: Any) -> Tree:
    """Return the fields of a value that appears or goes: every container in it, and everything in those."""
    if not value or not is_split(kind, value):
        return {}
    return {SELF: {}, **{key: _whole(child_kind, child) for key, (child_kind, child) in children(kind, value).items()}}


def describe(path: tuple[str, ...]) -> str:
    """Return a field's path as conflicts show it, such as ``.spec.ports[port=80].name``."""
    out = ""
    for step in path:
        if step.startswith("f:"):
            out += f".{step[2:]}"
        elif step.startswith("k:"):
            pairs = msgspec.json.decode(step[2:])
            out += "[" + ",".join(f"{k}={_encode(v).decode()}" for k, v in pairs.items()) + "]"
        elif step.startswith("v:"):
            out += f"[={step[2:]}]"
        else:
            out += f"[{step[2:]}]"
    return out

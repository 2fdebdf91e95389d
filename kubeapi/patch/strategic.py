"""Strategic merge patch: a merge patch whose lists know their keys, with Kubernetes' ``$`` directives."""

from typing import Any

from kubeapi.errors import ApiError, bad_request
from kubeapi.resources import Resource
from kubeapi.typed import Type, type_of

Json = dict[str, Any]
PATCH, RETAIN = "$patch", "$retainKeys"
DELETE_VALUES, ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def strategic_patch(res: Resource, obj: Json, patch: Json) -> Json:
    """Return ``obj`` patched; neither is changed. Raises 400, 422."""
    out = _object(type_of(res), obj, patch, "")
    if not isinstance(out, dict):
        raise bad_request("the patch deletes the whole object; use DELETE")
    return out


def _child(kind: Type | None, name: str) -> Type | None:
    return None if kind is None else kind.child(name)


def _object(kind: Type | None, target: Any, patch: Json, path: str) -> Any:
    directive = patch.get(PATCH)
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != PATCH}
    if directive == "delete":
        return None
    if directive not in (None, "merge"):
        raise bad_request(
            f'{path or "patch"}: unknown $patch directive "{directive}": allowed are delete, merge, replace'
        )
    out = dict(target) if isinstance(target, dict) else {}
    retain = patch.get(RETAIN)
    if isinstance(retain, list):
        out = {k: v for k, v in out.items() if k in retain}
    for name, value in patch.items():
        if name.startswith(DELETE_VALUES):
            field = name.removeprefix(DELETE_VALUES)
            if isinstance(out.get(field), list) and isinstance(value, list):
                out[field] = [v for v in out[field] if v not in value]
        elif name not in (PATCH, RETAIN) and not name.startswith(ORDER):
            _field(kind, out, name, value, path)
    for name, order in patch.items():
        if name.startswith(ORDER):
            field = name.removeprefix(ORDER)
            out_list = out.get(field)
            if isinstance(out_list, list) and isinstance(order, list):
                out[field] = _ordered(_child(kind, field), out_list, order)
    return out


def _field(kind: Type | None, out: Json, name: str, value: Any, path: str) -> None:
    child = _child(kind, name)
    where = f"{path}.{name}" if path else name
    if value is None:
        out.pop(name, None)
    elif isinstance(value, dict):
        merged = _object(child, out.get(name), value, where)
        if child is not None and "replace" in child.strategies and PATCH not in value:
            merged = value
        if merged is None:
            out.pop(name, None)
        else:
            out[name] = merged
    elif isinstance(value, list):
        out[name] = _list(child, out.get(name), value, where)
    else:
        out[name] = value


def _list(kind: Type | None, target: Any, patch: list[Any], path: str) -> list[Any]:
    replace = any(isinstance(item, dict) and item.get(PATCH) == "replace" for item in patch)
    items = [item for item in patch if not (isinstance(item, dict) and item.get(PATCH) == "replace" and len(item) == 1)]
    if replace or kind is None or "merge" not in kind.strategies:
        return items
    held = list(target) if isinstance(target, list) else []
    if not kind.merge_key:
        return held + [item for item in items if item not in held]
    return _keyed(kind, held, items, path)


def _keyed(kind: Type, held: list[Any], items: list[Any], path: str) -> list[Any]:
    key = kind.merge_key
    for item in items:
        if not isinstance(item, dict) or (key not in item and item.get(PATCH) != "delete"):
            raise ApiError(422, "Invalid", f"{path}: each item of the patch must be an object with its merge key {key}")
        same = [i for i, h in enumerate(held) if isinstance(h, dict) and h.get(key) == item.get(key)]
        if item.get(PATCH) == "delete":
            held = [h for i, h in enumerate(held) if i not in same]
        elif same:
            held[same[0]] = _object(kind.item, held[same[0]], item, f"{path}[{item[key]}]")
        else:
            held.append(_object(kind.item, {}, item, f"{path}[{item[key]}]"))
    return held


def _ordered(kind: Type | None, held: list[Any], order: list[Any]) -> list[Any]:
    """Return ``held`` with the named items in their wanted order; others keep their place before the next named one."""
    key = "" if kind is None else kind.merge_key

    def name(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted = [name(item) for item in order]
    position = {_hashable(n): i for i, n in enumerate(wanted)}
    named = sorted((h for h in held if _hashable(name(h)) in position), key=lambda h: position[_hashable(name(h))])
    others = [(i, h) for i, h in enumerate(held) if _hashable(name(h)) not in position]
    out = list(named)
    for index, item in others:
        out.insert(min(index, len(out)), item)
    return out


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)

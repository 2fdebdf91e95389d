"""What an EdgeApplication makes out of its manifests for each group of nodes (pure).

What describes pods is made once per target, named after it and bound to its nodes; everything else is made once.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proto import templates
from proto.kit import canonical

GROUP_LABEL = "apps.kubeedge.io/belonging-to"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
MAX_NAME = 253
Json = dict[str, Any]
_IMAGE = re.compile(r"(?:(?P<registry>[^/]*[.:][^/]*|localhost)/)?(?P<repository>[^:@]*)(?P<tag>[:@].*)?")


class Unusable(ValueError):
    """A manifest or an overrider that cannot be carried out; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Some nodes, and what is different there. Either ``group`` or ``terms`` says which."""

    name: str
    group: str
    terms: tuple[Json, ...]  # of a node selector
    overriders: Json


def targets(scope: Json) -> list[Target]:
    """Return the targets of a ``workloadScope``."""
    out = [
        Target(str(each["name"]), str(each["name"]), (), each.get("overriders") or {})
        for each in scope.get("targetNodeGroups") or ()
        if each.get("name")
    ]
    for each in scope.get("targetNodeLabels") or ():
        selector = each.get("labelSelector") or {}
        pairs = sorted((selector.get("matchLabels") or {}).items())
        terms = [{"key": key, "operator": "In", "values": [value]} for key, value in pairs]
        terms += selector.get("matchExpressions") or ()
        if terms:  # an empty selector would mean every node of the cluster
            name = hashlib.sha256(canonical.encode(terms)).hexdigest()[:8]
            out.append(Target(name, "", tuple(terms), each.get("overriders") or {}))
    return out


def describes_pods(manifest: Json) -> bool:
    return templates.pod_spec(manifest) is not None


def made_for(manifest: Json, target: Target) -> Json:
    """Return ``manifest`` as it is for ``target``. Raises Unusable."""
    obj = copy.deepcopy(manifest)
    found = templates.pod_spec(obj)
    if found is None:
        raise Unusable("only what describes pods can be made for a group of nodes")
    path, spec = found
    metadata = obj["metadata"]
    metadata["name"] = f"{metadata['name']}-{target.name}"
    if len(metadata["name"]) > MAX_NAME:
        raise Unusable(f"the name {metadata['name'][:60]}… is longer than {MAX_NAME} characters")
    _place(spec, target)
    _override(obj, path, spec, target.overriders)
    return obj


def _place(spec: Json, target: Target) -> None:
    if target.group:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), GROUP_LABEL: target.group}
        return
    affinity = spec["affinity"] = dict(spec.get("affinity") or {})
    nodes = affinity["nodeAffinity"] = dict(affinity.get("nodeAffinity") or {})
    before = (nodes.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    nodes[REQUIRED] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), *target.terms]} for term in before
        ]
    }


def _override(obj: Json, path: tuple[str, ...], spec: Json, overriders: Json) -> None:
    if overriders.get("replicas") is not None and obj.get("kind") in ("Deployment", "StatefulSet", "ReplicaSet"):
        obj["spec"]["replicas"] = overriders["replicas"]
    for each in overriders.get("imageOverriders") or ():
        _image(obj, spec, each)
    for key, field, change in OF_CONTAINERS:
        for each in overriders.get(key) or ():
            for container in _named(spec, each):
                container[field] = change(container.get(field), each)
    template = obj
    for part in path[:-1]:
        template = template[part]
    for key, field in (("labelsOverriders", "labels"), ("annotationsOverriders", "annotations")):
        for each in overriders.get(key) or ():
            for metadata in _both(obj, template):
                metadata[field] = _with_pairs(metadata.get(field) or {}, each)


def _both(obj: Json, template: Json) -> Iterator[Json]:
    yield obj["metadata"]
    if template is not obj:
        yield template.setdefault("metadata", {})


def _named(spec: Json, overrider: Mapping[str, Any]) -> list[Json]:
    name = overrider["containerName"]
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    found = [container for container in containers if container.get("name") == name]
    if not found:
        raise Unusable(f"there is no container {name}")
    return found


def _with_words(before: list[str] | None, overrider: Mapping[str, Any]) -> list[str]:
    words, value = before or [], list(overrider.get("value") or ())
    return [*words, *value] if overrider["operator"] == "add" else [word for word in words if word not in value]


def _with_variables(held: list[Json] | None, overrider: Mapping[str, Any]) -> list[Json]:
    """Return variables in their order: ``add`` and ``replace`` put in a new value where the name is there already."""
    before = held or []
    value = {each["name"]: each for each in overrider.get("value") or ()}
    if overrider["operator"] == "remove":
        return [each for each in before if each.get("name") not in value]
    known = {each.get("name") for each in before}
    kept = [value.get(str(each.get("name")), each) for each in before]
    if overrider["operator"] == "replace":
        return kept
    return kept + [each for name, each in value.items() if name not in known]


def _resources(_before: Json | None, overrider: Mapping[str, Any]) -> Json:
    return overrider.get("value") or {}


OF_CONTAINERS: tuple[tuple[str, str, Callable[[Any, Mapping[str, Any]], Any]], ...] = (
    ("envOverriders", "env", _with_variables),
    ("commandOverriders", "command", _with_words),
    ("argsOverriders", "args", _with_words),
    ("resourcesOverriders", "resources", _resources),
)


def _with_pairs(before: Json, overrider: Mapping[str, Any]) -> Json:
    value = overrider.get("value") or {}
    if overrider["operator"] == "remove":
        return {key: found for key, found in before.items() if key not in value}
    if overrider["operator"] == "replace":
        return {key: value.get(key, found) for key, found in before.items()}
    return {**before, **value}


def _image(obj: Json, spec: Json, overrider: Mapping[str, Any]) -> None:
    path = (overrider.get("predicate") or {}).get("path")
    if path:
        holder, key = _at(obj, str(path))
        holder[key] = image(str(holder[key]), overrider)
        return
    for container in spec.get("containers") or ():
        if container.get("image"):
            container["image"] = image(container["image"], overrider)


def _at(obj: Json, path: str) -> tuple[Any, Any]:
    """Return (holder, key) of the text at a JSON pointer. Raises Unusable."""
    *parents, last = path.strip("/").split("/")
    at: Any = obj
    try:
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        key = int(last) if isinstance(at, list) else last
        if isinstance(at[key], str):
            return at, key
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Unusable(f"there is no image at {path}") from error
    raise Unusable(f"there is no image at {path}")


def image(text: str, overrider: Mapping[str, Any]) -> str:
    """Return an image's name with one part of it changed. Raises Unusable."""
    found = _IMAGE.fullmatch(text)
    if found is None:
        raise Unusable(f"{text} is no image")
    parts = {name: found[name] or "" for name in ("registry", "repository", "tag")}
    chosen, operator = str(overrider["component"]).lower(), overrider["operator"]
    value = str(overrider.get("value") or "").lstrip(":@")
    held = parts[chosen]
    old = held.lstrip(":@")
    new = {"add": old + value, "replace": value}.get(operator, "")
    if chosen == "tag" and new:
        mark = held[:1] if operator == "add" and held else "@" if new.startswith("sha256:") else ":"
        new = mark + new
    parts[chosen] = new
    if not parts["repository"]:
        raise Unusable(f"nothing is left of {text}")
    return f"{parts['registry']}/{parts['repository']}{parts['tag']}".lstrip("/")

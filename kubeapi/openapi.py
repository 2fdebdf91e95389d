"""OpenAPI: the v3 index and a document per group version, live for CRDs; v2 as JSON for tools that know no better.

The index gives each document a hash, so that a client keeps it for as long as it is true.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from kubeapi.resources import Registry, Resource
from kubeapi.schemas import REFERENCE, definitions
from kubeapi.stored import encode
from kubeapi.virtual_kinds import VIRTUAL, subresource_kind, subresource_verbs

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
V2_REFERENCE = "#/definitions/"
NOT_IN_V2 = ("oneOf", "anyOf", "allOf", "not", "nullable")
ACTIONS = {"get": "get", "list": "list", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
METHODS = {"get": "get", "list": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
PARAMETERS = {
    "dryRun": "When present, nothing is stored. The only valid value is All.",
    "fieldManager": "The name that the changed fields will be owned by.",
    "fieldValidation": "What to do about unknown or duplicate fields: Ignore, Warn or Strict.",
    "force": "Take the fields that another manager owns; apply patches only.",
}

Json = dict[str, Any]


class OpenApi:
    """Answers ``/openapi/v3``, ``/openapi/v3/<group version>`` and ``/openapi/v2``."""

    def __init__(self, registry: Registry, version: str) -> None:
        self._registry, self._version = registry, version
        self._revision = -1
        self._index = b""
        self._groups: dict[str, list[Resource]] = {}
        self._hashes: dict[str, str] = {}
        self._documents: dict[str, tuple[str, bytes]] = {}
        self._v2 = b""

    def index(self) -> bytes:
        """Return the v3 index."""
        self._refresh()
        return self._index

    def hash_of(self, path: str) -> str | None:
        """Return the hash of the document at ``path`` (``api/v1``, ``apis/<group>/<version>``); None: no such one."""
        self._refresh()
        return self._hashes.get(path)

    def document(self, path: str) -> bytes:
        """Return the v3 document at a path that ``hash_of`` knows."""
        self._refresh()
        digest = self._hashes[path]
        held = self._documents.get(path)
        if held is None or held[0] != digest:
            held = self._documents[path] = (digest, encode(self._v3(self._groups[path])))
        return held[1]

    def v2(self) -> bytes:
        """Return everything as one Swagger 2.0 document."""
        self._refresh()
        if not self._v2:
            everything = [res for found in self._groups.values() for res in found]
            document = self._v3(everything)
            swagger = {
                "swagger": "2.0",
                "info": document["info"],
                "paths": _paths(everything, version=2),
                "definitions": _as_v2(document["components"]["schemas"]),
            }
            self._v2 = encode(swagger).replace(REFERENCE.encode(), V2_REFERENCE.encode())
        return self._v2

    def _refresh(self) -> None:
        if self._revision == self._registry.revision:
            return
        self._revision = self._registry.revision
        self._groups = {}
        for res in sorted([*self._registry.all(), *VIRTUAL], key=lambda r: (r.group, r.version, r.plural)):
            path = f"apis/{res.group}/{res.version}" if res.group else f"api/{res.version}"
            self._groups.setdefault(path, []).append(res)
        self._hashes = {path: _digest(self._version, found) for path, found in self._groups.items()}
        urls = {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"} for path, digest in self._hashes.items()
        }
        self._index = encode({"paths": urls})
        self._documents = {path: held for path, held in self._documents.items() if path in self._hashes}
        self._v2 = b""

    def _v3(self, resources: list[Resource]) -> Json:
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": self._version},
            "paths": _paths(resources, version=3),
            "components": {"schemas": _schemas(resources)},
        }


def _digest(version: str, resources: list[Resource]) -> str:
    """Return a hash of all that the document depends on; a built-in's schema depends on our version alone."""
    parts: list[Any] = [version]
    for res in resources:
        schema = res.schema if res.custom else None
        parts.append([res.plural, res.kind, res.namespaced, sorted(res.subresources), list(res.verbs), schema])
    return hashlib.sha256(encode(parts)).hexdigest().upper()


def schema_name(res: Resource) -> str:
    """Return the name of the kind's schema: for ``devices.kubeedge.io`` ``io.kubeedge.devices.v1beta1.Device``."""
    if not res.custom:
        return res.definition
    return ".".join([*reversed(res.group.split(".")), res.version, res.kind])


def _schemas(resources: list[Resource]) -> Json:
    """Return the schemas of ``resources`` and everything that they refer to."""
    roots: Json = {}
    for res in resources:
        name = schema_name(res)
        if res.custom:
            roots[name] = _custom_schema(res)
            roots[name + "List"] = _list_schema(res, name)
    builtin = definitions()
    todo = [schema_name(r) for r in resources if not r.custom] + [
        schema_name(r) + "List" for r in resources if not r.custom
    ]
    todo += [META + "Status", META + "DeleteOptions", META + "Patch", META + "ObjectMeta", META + "ListMeta"]
    out: Json = dict(roots)
    while todo:
        name = todo.pop()
        if name in out or name not in builtin:
            continue
        out[name] = _published(builtin[name])
        todo += _references(builtin[name])
    return dict(sorted(out.items()))


def _published(schema: Json) -> Json:
    """Return a built-in schema without the constants of apiVersion and kind: clients show them as choices."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not any("enum" in properties.get(key, ()) for key in ("apiVersion", "kind")):
        return schema
    plain = {
        key: {k: v for k, v in value.items() if k != "enum"} if key in ("apiVersion", "kind") else value
        for key, value in properties.items()
    }
    return {**schema, "properties": plain}


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"].removeprefix(REFERENCE)] if isinstance(node.get("$ref"), str) else []
        return own + [name for value in node.values() for name in _references(value)]
    return [name for value in node for name in _references(value)] if isinstance(node, list) else []


def _custom_schema(res: Resource) -> Json:
    schema: Json = dict(res.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    properties = dict(schema.get("properties") or {})
    texts = definitions().get(META + "Status", {}).get("properties", {})
    for key in ("apiVersion", "kind"):
        properties[key] = {"type": "string", "description": texts.get(key, {}).get("description", "")}
    properties["metadata"] = {
        "allOf": [{"$ref": REFERENCE + META + "ObjectMeta"}],
        "description": "Standard object's metadata.",
    }
    schema["properties"] = properties
    schema["x-kubernetes-group-version-kind"] = [_kind(res.group, res.version, res.kind)]
    return schema


def _list_schema(res: Resource, name: str) -> Json:
    return {
        "type": "object",
        "description": f"{res.list_kind} is a list of {res.kind}",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"$ref": REFERENCE + META + "ListMeta"},
            "items": {"type": "array", "items": {"$ref": REFERENCE + name}},
        },
        "x-kubernetes-group-version-kind": [_kind(res.group, res.version, res.list_kind)],
    }


def _kind(group: str, version: str, kind: str) -> Json:
    return {"group": group, "version": version, "kind": kind}


def _paths(resources: list[Resource], *, version: int) -> Json:
    out: Json = {}
    for res in resources:
        root = f"/apis/{res.group}/{res.version}" if res.group else f"/api/{res.version}"
        spaced = f"{root}/namespaces/{{namespace}}" if res.namespaced else root
        collection = [verb for verb in ("list", "create") if verb in res.verbs]
        single = [verb for verb in ("get", "update", "patch", "delete") if verb in res.verbs]
        out[f"{spaced}/{res.plural}"] = _operations(res, "", collection, version)
        if res.namespaced and "list" in res.verbs:
            out[f"{root}/{res.plural}"] = _operations(res, "", ["list"], version)
        if single:
            out[f"{spaced}/{res.plural}/{{name}}"] = _operations(res, "", single, version)
        for sub in sorted(res.subresources):
            out[f"{spaced}/{res.plural}/{{name}}/{sub}"] = _operations(res, sub, subresource_verbs(sub), version)
    return out


def _operations(res: Resource, sub: str, verbs: Sequence[str], version: int) -> Json:
    kind = _kind(*subresource_kind(res, sub)) if sub else _kind(res.group, res.version, res.kind)
    out: Json = {}
    for verb in verbs:
        operation: Json = {
            "operationId": f"{verb}{res.group.replace('.', '_')}{res.version}{res.kind}{sub.title()}",
            "parameters": _parameters(verb, version),
            "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": ACTIONS[verb],
            "x-kubernetes-group-version-kind": kind,
        }
        reference = {"$ref": REFERENCE + schema_name(res)}
        if version == 3 and verb in ("create", "update"):
            operation["requestBody"] = {"content": {"*/*": {"schema": reference}}, "required": True}
        elif version == 3 and verb == "patch":
            # kubectl reads here which patch a kind takes; a custom one has no strategic merge
            taken = [media for media in PATCHES if not (res.custom and "strategic" in media)]
            content = {media: {"schema": {"$ref": REFERENCE + META + "Patch"}} for media in taken}
            operation["requestBody"] = {"content": content, "required": True}
        elif version == 2 and verb in ("create", "update", "patch"):
            operation["parameters"].append({"name": "body", "in": "body", "required": True, "schema": reference})
        out[METHODS[verb]] = operation
    return out


def _parameters(verb: str, version: int) -> list[Json]:
    if verb not in ("create", "update", "patch"):
        return []
    names = [name for name in PARAMETERS if name != "force" or verb == "patch"]
    kind: Json = {"schema": {"type": "string", "uniqueItems": True}} if version == 3 else {"type": "string"}
    return [{"name": name, "in": "query", "description": PARAMETERS[name], **kind} for name in names]


def _as_v2(node: Any) -> Any:
    if isinstance(node, dict):
        if isinstance(node.get("allOf"), list) and len(node["allOf"]) == 1:
            node = {**node, **node["allOf"][0]}
        out = {
            key: _as_v2(value)
            for key, value in node.items()
            if key not in NOT_IN_V2 or not isinstance(value, list | bool | dict)
        }
        if "oneOf" in node and "type" not in node:
            out["type"] = "string"
        return out
    return [_as_v2(value) for value in node] if isinstance(node, list) else node

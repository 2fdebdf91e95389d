"""CustomResourceDefinitions: checked when written, served as soon as they are committed.

A CRD's versions convert by name only (strategy None). ``status`` is written here, at once: NamesAccepted, Established.
"""

from collections.abc import Iterable
from typing import Any

from kubeapi import jsonpath
from kubeapi.admission import Attempt
from kubeapi.crd_schema import structural_causes
from kubeapi.errors import INVALID, NOT_SUPPORTED, REQUIRED, Cause, invalid, method_not_supported
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.resources import Column, Registry, Resource, Scale
from kubeapi.store import Store
from kubeapi.stored import DELETED, Event
from proto.kit.clock import Clock, rfc3339

Json = dict[str, Any]
MAX_SELECTABLE = 8  # fields per version
TOO_MANY = "FieldValueTooMany"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"  # finalizer: its objects go first


def resources_of(crd: Json) -> list[Resource]:
    """Return one Resource per served version of a CRD. The edge registers these without storing the CRD."""
    spec = crd["spec"]
    storage = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
    return [_resource(spec, version, storage) for version in spec["versions"] if version.get("served")]


def _resource(spec: Json, version: Json, storage: str) -> Resource:
    names = spec["names"]
    sub = version.get("subresources") or {}
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    return Resource(
        spec["group"],
        version["name"],
        names["plural"],
        names["kind"],
        namespaced=spec["scope"] == "Namespaced",
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=frozenset(k for k in ("status", "scale") if sub.get(k) is not None),
        columns=tuple(_column(c) for c in version.get("additionalPrinterColumns") or ()),
        schema=schema,
        fields=tuple(f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or ()),
        storage_version=storage,
        scale=_scale(sub.get("scale")),
        custom=True,
        deprecated=_deprecation(spec, version),
    )


def _column(column: Json) -> Column:
    return Column(
        column["name"],
        column["jsonPath"],
        column.get("type", "string"),
        column.get("format", ""),
        column.get("description", ""),
        column.get("priority", 0),
    )


def _scale(scale: Json | None) -> Scale | None:
    if scale is None:
        return None
    selector = scale.get("labelSelectorPath", "")
    return Scale(scale["specReplicasPath"], scale["statusReplicasPath"], selector)


def _deprecation(spec: Json, version: Json) -> str:
    if not version.get("deprecated"):
        return ""
    named = f"{spec['group']}/{version['name']} {spec['names']['kind']} is deprecated"
    return str(version.get("deprecationWarning") or named)


class Crds:
    """Keeps the registry true to the CRDs in the store, and answers for what a CRD may say."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._served: dict[str, list[Resource]] = {}

    def start(self) -> None:
        """Serve what is stored, and follow every later change at its commit."""
        for crd in self._store.list(CRD, None):
            self._serve(crd)
        self._store.listen(CRD, self._changed)

    def _changed(self, event: Event) -> None:
        self._withdraw(event.object["metadata"]["name"])
        if event.type != DELETED:
            self._serve(event.object)

    def _serve(self, crd: Json) -> None:
        if not _accepted(crd):
            return
        served = self._served[crd["metadata"]["name"]] = resources_of(crd)
        for res in served:
            self._registry.add(res)

    def _withdraw(self, name: str) -> None:
        for res in self._served.pop(name, ()):
            self._registry.remove(res)

    def admit(self, attempt: Attempt) -> Json | None:
        """Admission hook: complete and check a CRD. Raises 422."""
        if attempt.res != CRD or attempt.obj is None:
            return None
        crd = _completed(attempt.obj)
        wrong = crd_causes(crd)
        if wrong:
            raise invalid(CRD, attempt.name, wrong)
        if attempt.subresource == "status":
            return crd
        old_status = (attempt.old or {}).get("status") or {}
        crd["status"] = self._status(crd, old_status)
        if attempt.old is None:
            finalizers = [*(crd["metadata"].get("finalizers") or ()), CLEANUP]
            crd["metadata"] = dict(crd["metadata"], finalizers=list(dict.fromkeys(finalizers)))
        return crd

    def _status(self, crd: Json, old: Json) -> Json:
        spec = crd["spec"]
        taken = self._taken(crd)
        accepted = _condition(
            "NamesAccepted", not taken, "NoConflicts" if not taken else "Conflict", taken or "no conflicts found"
        )
        text = "the initial names have been accepted" if not taken else "not all names are accepted"
        established = _condition("Established", not taken, "InitialNamesAccepted" if not taken else "NotAccepted", text)
        held = {c["type"]: c for c in old.get("conditions") or ()}
        now = rfc3339(self._clock.wall())
        conditions = []
        for condition in (accepted, established):
            before = held.get(condition["type"], {})
            same = before.get("status") == condition["status"]
            conditions.append({"lastTransitionTime": before["lastTransitionTime"] if same else now, **condition})
        storage = [v["name"] for v in spec["versions"] if v.get("storage")]
        versions = [*(old.get("storedVersions") or ()), *storage]
        return {
            "acceptedNames": dict(spec["names"]) if not taken else {"plural": "", "kind": ""},
            "conditions": conditions,
            "storedVersions": list(dict.fromkeys(versions)),
        }

    def _taken(self, crd: Json) -> str:
        spec = crd["spec"]
        own = {id(r) for r in self._served.get(crd["metadata"]["name"], ())}
        for res in self._registry.all():
            if res.group == spec["group"] and id(res) not in own:
                if res.kind == spec["names"]["kind"]:
                    return f'"{res.kind}" is already in use by {res.plural}'
                if res.plural == spec["names"]["plural"]:
                    return f'"{res.plural}" is already in use'
        return ""


def refuse_while_terminating(store: Store, res: Resource) -> None:
    """Raise 405 for a create of a kind whose CRD is going. Inside a transaction."""
    found = store.peek(CRD, "", f"{res.plural}.{res.group}")
    if found is not None and "deletionTimestamp" in found.object["metadata"]:
        raise method_not_supported(res, "create not allowed while custom resource definition is terminating")


def _condition(kind: str, true: bool, reason: str, message: str) -> Json:
    return {"type": kind, "status": "True" if true else "False", "reason": reason, "message": message}


def _accepted(crd: Json) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)


def _completed(crd: Json) -> Json:
    """Return a copy with the defaults of its names and conversion."""
    out = dict(crd)
    spec = out["spec"] = dict(crd.get("spec") or {})
    if isinstance(spec.get("names"), dict):
        names = spec["names"] = dict(spec["names"])
        kind = names.get("kind") or ""
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    return out


def crd_causes(crd: Json) -> list[Cause]:
    """Return what is wrong with a CRD beyond its JSON types."""
    spec = crd["spec"]
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    out = [Cause(REQUIRED, f"spec.{k}", "Required value") for k in ("group", "scope") if not spec.get(k)]
    out += [Cause(REQUIRED, f"spec.names.{k}", "Required value") for k in ("plural", "kind") if not names.get(k)]
    if not versions:
        out.append(Cause(REQUIRED, "spec.versions", "Required value: at least one version"))
    if out:
        return out
    wanted = f"{names['plural']}.{spec['group']}"
    if crd["metadata"]["name"] != wanted:
        text = f'Invalid value: "{crd["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
        out.append(Cause(INVALID, "metadata.name", f"{text} ({wanted})"))
    if spec["scope"] not in ("Namespaced", "Cluster"):
        text = f'Unsupported value: "{spec["scope"]}": supported values: "Cluster", "Namespaced"'
        out.append(Cause(NOT_SUPPORTED, "spec.scope", text))
    if "." not in spec["group"]:
        out.append(
            Cause(INVALID, "spec.group", f'Invalid value: "{spec["group"]}": should be a domain with at least one dot')
        )
    if (spec.get("conversion") or {}).get("strategy", "None") != "None":
        text = f'Unsupported value: "{spec["conversion"]["strategy"]}": supported values: "None"'
        out.append(Cause(NOT_SUPPORTED, "spec.conversion.strategy", text))
    stored = [v for v in versions if v.get("storage")]
    if len(stored) != 1:
        out.append(
            Cause(INVALID, "spec.versions", "Invalid value: must have exactly one version marked as storage version")
        )
    seen: set[str] = set()
    for i, version in enumerate(versions):
        if version.get("name") in seen:
            out.append(Cause(INVALID, f"spec.versions[{i}].name", "Invalid value: must be unique"))
        seen.add(version.get("name", ""))
        out += _version_causes(version, f"spec.versions[{i}]")
    return out


def _version_causes(version: Json, path: str) -> list[Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, dict):
        return [Cause(REQUIRED, f"{path}.schema.openAPIV3Schema", "Required value: schemas are required")]
    out = structural_causes(schema, f"{path}.schema.openAPIV3Schema")
    out += _column_causes(version.get("additionalPrinterColumns") or (), f"{path}.additionalPrinterColumns")
    out += _selectable_causes(version.get("selectableFields") or (), schema, f"{path}.selectableFields")
    scale = (version.get("subresources") or {}).get("scale")
    for key in ("specReplicasPath", "statusReplicasPath"):
        if scale is not None and not str(scale.get(key) or "").startswith("."):
            out.append(
                Cause(REQUIRED, f"{path}.subresources.scale.{key}", "Required value: a path such as .spec.replicas")
            )
    return out


def _selectable_causes(fields: Iterable[Json], schema: Json, path: str) -> list[Cause]:
    out = []
    for i, field in enumerate(fields):
        where, text = f"{path}[{i}].jsonPath", str(field.get("jsonPath") or "")
        at: Any = schema
        for part in text.removeprefix(".").split("."):
            at = ((at.get("properties") or {}) if isinstance(at, dict) else {}).get(part)
        kind = at.get("type") if isinstance(at, dict) else None
        if i >= MAX_SELECTABLE:
            out.append(Cause(TOO_MANY, path, f"Too many: must have at most {MAX_SELECTABLE} items"))
            break
        if not text.startswith(".") or text.startswith(".metadata"):
            out.append(Cause(INVALID, where, f'Invalid value: "{text}": must be a simple path such as .spec.color'))
        elif kind is None:
            out.append(Cause(INVALID, where, f'Invalid value: "{text}": does not refer to a field of the schema'))
        elif kind not in ("string", "boolean", "integer"):
            said = f'Invalid value: "{text}": must refer to a field of type string, boolean or integer, not {kind}'
            out.append(Cause(INVALID, where, said))
    return out


def _column_causes(columns: Iterable[Json], path: str) -> list[Cause]:
    out = []
    allowed = ("boolean", "date", "integer", "number", "string")
    for i, column in enumerate(columns):
        if column.get("type") not in allowed:
            listed = ", ".join(f'"{a}"' for a in allowed)
            text = f'Unsupported value: "{column.get("type")}": supported values: {listed}'
            out.append(Cause(NOT_SUPPORTED, f"{path}[{i}].type", text))
        try:
            jsonpath.find({}, str(column.get("jsonPath", "")))
        except jsonpath.BadPath as error:
            out.append(Cause(INVALID, f"{path}[{i}].jsonPath", f"Invalid value: {error}"))
    return out

"""Field validation of a write: unknown and duplicate fields (Strict, Warn, Ignore), types, defaults, schema rules."""

from typing import Any

from kubeapi.errors import Cause, bad_request, invalid
from kubeapi.options import WriteOptions
from kubeapi.resources import Resource
from kubeapi.schema import MAX_CAUSES, Checker, Findings
from kubeapi.typed import METADATA, Type, type_of

Json = dict[str, Any]
MODES = ("Strict", "Warn", "Ignore")
_METADATA = Type(METADATA, lambda _: {})


def check_fields(res: Resource, obj: Json, old: Json | None, subresource: str, opts: WriteOptions) -> Json:
    """Return ``obj`` pruned and defaulted. What did not change since ``old`` is not looked at. Raises 400, 422."""
    if opts.field_validation not in MODES:
        raise bad_request(f'fieldValidation "{opts.field_validation}" is not supported: {", ".join(MODES)}')
    checker = Checker(drop_nulls=not res.custom)
    kind = type_of(res)
    out = dict(obj)
    for key in obj:
        if key in ("apiVersion", "kind") or (old is not None and key in old and _unchanged(old[key], obj[key])):
            continue
        if subresource and old is not None and key == "metadata":
            continue
        _check_one(checker, kind, out, key)
    if old is None or out.keys() != old.keys():
        out = checker.fill_defaults(kind, out, obj, "")
        missing = [name for name in kind.required if name not in out]
        checker.found.causes += [Cause("FieldValueRequired", name, "Required value") for name in missing]
    _raise(res, out, checker.found, opts)
    return out


def _unchanged(old: Any, new: Any) -> bool:
    return old is new or bool(old == new)


def _check_one(checker: Checker, kind: Type, out: Json, key: str) -> None:
    value = out[key]
    child = _METADATA if key == "metadata" else kind.child(key)
    if child is None:
        if not kind.preserve:
            checker.found.unknown.append(key)
            del out[key]
    elif value is None and not child.nullable:
        del out[key]
    else:
        drop_nulls, checker.drop_nulls = checker.drop_nulls, checker.drop_nulls or key == "metadata"
        out[key] = checker.check(child, value, key)
        checker.drop_nulls = drop_nulls


def _raise(res: Resource, obj: Json, found: Findings, opts: WriteOptions) -> None:
    if opts.field_validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in sorted(found.unknown)]
        texts += [f'duplicate field "{path}"' for path in opts.duplicates]
        if texts and opts.field_validation == "Strict":
            raise bad_request(_decoding(res, f"strict decoding error: {', '.join(texts[:MAX_CAUSES])}"))
        for text in texts[:MAX_CAUSES]:
            opts.warn(text)
    name = obj["metadata"].get("name", "") if isinstance(obj.get("metadata"), dict) else ""
    if found.types and not res.custom:
        raise bad_request(_decoding(res, "; ".join(f"{c.field}: {c.message}" for c in found.types[:MAX_CAUSES])))
    causes = [*found.types, *found.causes]
    if causes:
        raise invalid(res, name, causes[:MAX_CAUSES])


def _decoding(res: Resource, why: str) -> str:
    return f'{res.kind} in version "{res.version}" cannot be handled as a {res.kind}: {why}'

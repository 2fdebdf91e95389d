"""Names, labels, annotations and the other rules of ``metadata``."""

import re
from typing import Any

from kubeapi.errors import DUPLICATE, INVALID, REQUIRED, TOO_LONG, TYPE_INVALID, Cause
from kubeapi.resources import Resource
from proto.kit.backoff import Rng

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
MAX_ANNOTATIONS_BYTES = 256 * 1024
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: a random name spells nothing
SUFFIX_LENGTH = 5
MAX_GENERATED_PREFIX = 63 - SUFFIX_LENGTH

SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SERVICE_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    "end with an alphanumeric character (e.g. 'my-name', or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
# by rule: what matches, how long at most, how people are told
NAME_RULES: dict[str, tuple[re.Pattern[str], int, str]] = {
    "subdomain": (SUBDOMAIN, 253, SUBDOMAIN_TEXT),
    "label": (LABEL, 63, LABEL_TEXT),
    "service": (SERVICE, 63, SERVICE_TEXT),
    "path": (re.compile(r"(?!\.\.?$)[^/%]+"), 253, "may not be '.' or '..', nor contain '/' or '%'"),
}
STRINGS = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "selfLink",
)
SYSTEM_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


def generated_name(prefix: str, rng: Rng) -> str:
    """Return ``prefix`` with five random letters, as generateName does."""
    suffix = "".join(rng.choice(SUFFIX_ALPHABET) for _ in range(SUFFIX_LENGTH))
    return prefix[:MAX_GENERATED_PREFIX] + suffix


def shape_causes(metadata: Any) -> list[Cause]:
    """Return what keeps ``metadata`` from being read at all (wrong JSON types)."""
    if not isinstance(metadata, dict):
        return [Cause(TYPE_INVALID, "metadata", "Invalid value: must be of type object")]
    out = [
        _type(f"metadata.{key}", "string")
        for key in STRINGS
        if metadata.get(key) is not None and not isinstance(metadata[key], str)
    ]
    for key in ("labels", "annotations"):
        value = metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            out.append(_type(f"metadata.{key}", "object"))
        else:
            out += [_type(f"metadata.{key}.{k}", "string") for k, v in value.items() if not isinstance(v, str)]
    finalizers = metadata.get("finalizers")
    if finalizers is not None and not (isinstance(finalizers, list) and all(isinstance(f, str) for f in finalizers)):
        out.append(_type("metadata.finalizers", "array of string"))
    owners = metadata.get("ownerReferences")
    if owners is not None and not (isinstance(owners, list) and all(isinstance(o, dict) for o in owners)):
        out.append(_type("metadata.ownerReferences", "array of object"))
    return out


def _type(field: str, wanted: str) -> Cause:
    return Cause(TYPE_INVALID, field, f"Invalid value: must be of type {wanted}")


def causes(res: Resource, metadata: dict[str, Any]) -> list[Cause]:
    """Return what is wrong with a complete ``metadata``."""
    out = name_causes(res, metadata.get("name", ""))
    for key, value in (metadata.get("labels") or {}).items():
        out += key_causes("metadata.labels", key)
        if len(value) > 63 or (value and not QUALIFIED.fullmatch(value)):
            text = (
                f'Invalid value: "{value}": a valid label must be an empty string or consist of at most 63 alphanumeric '
                "characters, '-', '_' or '.', and must start and end with an alphanumeric character"
            )
            out.append(Cause(INVALID, "metadata.labels", text))
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        out += key_causes("metadata.annotations", key.lower())
    if sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATIONS_BYTES:
        out.append(
            Cause(TOO_LONG, "metadata.annotations", f"Too long: may not be more than {MAX_ANNOTATIONS_BYTES} bytes")
        )
    for finalizer in metadata.get("finalizers") or ():
        out += key_causes("metadata.finalizers", finalizer)
    return out + _owner_causes(metadata.get("ownerReferences") or [])


def name_causes(res: Resource, name: str) -> list[Cause]:
    """Return what is wrong with ``name`` for this kind."""
    if not name:
        return [Cause(REQUIRED, "metadata.name", "Required value: name or generateName is required")]
    pattern, longest, text = NAME_RULES[res.names]
    if len(name) > longest:
        return [
            Cause(INVALID, "metadata.name", f'Invalid value: "{name[:80]}": must be no more than {longest} characters')
        ]
    if not pattern.fullmatch(name):
        return [Cause(INVALID, "metadata.name", f'Invalid value: "{name}": {text}')]
    return []


def key_causes(field: str, key: str) -> list[Cause]:
    """Return what is wrong with a qualified name (label key, annotation key, finalizer)."""
    prefix, slash, name = key.rpartition("/")
    if (
        len(name) > 63
        or not QUALIFIED.fullmatch(name)
        or (slash and not (len(prefix) <= 253 and SUBDOMAIN.fullmatch(prefix)))
    ):
        text = (
            f'Invalid value: "{key[:120]}": a qualified name is an optional DNS subdomain and "/", then at most 63 '
            "alphanumeric characters, '-', '_' or '.', starting and ending with an alphanumeric character"
        )
        return [Cause(INVALID, field, text)]
    return []


def _owner_causes(owners: list[dict[str, Any]]) -> list[Cause]:
    out = [
        Cause(REQUIRED, f"metadata.ownerReferences[{i}].{key}", "Required value")
        for i, owner in enumerate(owners)
        for key in ("apiVersion", "kind", "name", "uid")
        if not isinstance(owner.get(key), str) or not owner[key]
    ]
    if sum(1 for o in owners if o.get("controller") is True) > 1:
        out.append(
            Cause(
                INVALID, "metadata.ownerReferences", "Invalid value: only one reference can have controller set to true"
            )
        )
    uids = [o.get("uid") for o in owners]
    if len(set(map(str, uids))) != len(uids):
        out.append(Cause(DUPLICATE, "metadata.ownerReferences", "Duplicate value: two references name the same uid"))
    return out

"""Credentials for pulls from the Secrets that a pod names; the longest match comes first (pure)."""

import base64
import binascii
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from edgecore.pods.environment import secret_bytes
from edgecore.pods.lookups import Objects
from edgecore.pods.references import DOCKER_HUB, Reference
from edgecore.pods.runtime import Auth
from proto.kit import canonical

Json = dict[str, Any]
CONFIG_JSON, CONFIG = "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"
_KEYS = {CONFIG_JSON: ".dockerconfigjson", CONFIG: ".dockercfg"}
_HUB_NAMES = (DOCKER_HUB, f"index.{DOCKER_HUB}", f"registry-1.{DOCKER_HUB}")


def of_pod(pod: Json, reference: Reference, objects: Objects) -> tuple[list[Auth], list[str]]:
    """Return the credentials to try in order, and sentences about Secrets that are of no use."""
    namespace, spec = pod["metadata"].get("namespace", ""), pod.get("spec") or {}
    named = spec.get("imagePullSecrets")
    if not named:
        account = objects.get("serviceaccounts", namespace, spec.get("serviceAccountName") or "default")
        named = (account or {}).get("imagePullSecrets") or ()
    entries: list[tuple[str, Json]] = []
    problems: list[str] = []
    for name in [str(item.get("name", "")) for item in named]:
        secret = objects.get("secrets", namespace, name)
        if secret is None:
            problems.append(f'pull secret "{name}" not found')
            continue
        try:
            entries += _entries(secret)
        except ValueError as error:
            problems.append(f'pull secret "{name}": {error}')
    return matching(entries, reference), problems


def matching(entries: Iterable[tuple[str, Json]], reference: Reference) -> list[Auth]:
    """Return what fits ``reference``, the most exact first, each once."""
    found = [(len(_bare(key)), key, entry) for key, entry in entries if fits(key, reference)]
    found.sort(key=lambda item: item[0], reverse=True)
    return list(dict.fromkeys(auth_of(entry) for _, _, entry in found))


def fits(key: str, reference: Reference) -> bool:
    """Whether an entry for ``key`` (a registry with or without scheme, port, path; ``*`` within a label) is for it."""
    host, _, path = _bare(key).partition("/")
    if host in _HUB_NAMES:
        host, path = DOCKER_HUB, "" if path in {"v1", "v2"} else path
    if path in {"v1", "v2"}:
        path = ""
    wanted, _, wanted_port = _split(reference.registry)
    name, _, port = _split(host)
    if port and port != wanted_port:
        return False
    labels, wanted_labels = name.split("."), wanted.split(".")
    if len(labels) != len(wanted_labels):
        return False
    if not all(fnmatchcase(b, a) for a, b in zip(labels, wanted_labels, strict=True)):
        return False
    return not path or reference.repository == path or reference.repository.startswith(f"{path}/")


def auth_of(entry: Json) -> Auth:
    """Read one entry of a docker config; an ``auth`` of base64 comes before user and password."""
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"])).decode()
        except (binascii.Error, ValueError):
            text = ""
        if ":" in text:
            username, _, password = text.partition(":")
            password = password.rstrip("\0")
    return Auth(username, password, str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or ""))


def _entries(secret: Json) -> list[tuple[str, Json]]:
    """Raises ValueError with a sentence that shows nothing of the content."""
    kind = secret.get("type")
    if kind not in _KEYS:
        raise ValueError(f"its type is {kind}, not {CONFIG_JSON} or {CONFIG}")
    held = (secret.get("data") or {}).get(_KEYS[kind])
    if held is None:
        raise ValueError(f"it has no key {_KEYS[kind]}")
    try:
        tree = canonical.decode(secret_bytes(held))
    except (ValueError, *canonical.UNREADABLE):
        raise ValueError("its content is not JSON") from None
    if kind == CONFIG_JSON:
        tree = tree.get("auths") if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        raise ValueError("its content names no registries")  # noqa: TRY004  what a person wrote, no mistake of ours
    return [(str(key), entry) for key, entry in tree.items() if isinstance(entry, dict)]


def _bare(key: str) -> str:
    return key.partition("://")[2].rstrip("/") if "://" in key else key.rstrip("/")


def _split(host: str) -> tuple[str, str, str]:
    if host.startswith("["):
        return host, "", ""
    return host.partition(":")

"""What stands in volumes made of objects: configMap, secret, downwardAPI and projected (pure but for two small reads)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecore.pods import downward
from edgecore.pods.environment import secret_bytes
from edgecore.pods.facts import NodeFacts
from edgecore.pods.lookups import Objects
from edgecore.pods.tokens import Tokens

Json = dict[str, Any]
DEFAULT_MODE = 0o644
TOKEN_MODE = 0o600  # where one user or group of the pod can be named as the reader
DEFAULT_TOKEN_S = 3600
ROOT_CA = "kube-root-ca.crt"  # the ConfigMap of every namespace: on an edge it holds the CA of the node-local API
MAX_PATH = 4096


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume. ``uid`` None: root owns it."""

    content: bytes
    mode: int = DEFAULT_MODE
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the content comes from. ``held`` reads what a volume's file holds now (None: nothing), to keep good tokens."""

    objects: Objects
    facts: NodeFacts
    tokens: Tokens
    root_ca: Callable[[], bytes | None]
    held: Callable[[str], bytes | None]


def files_of(pod: Json, volume: Json, sources: Sources) -> dict[str, File]:
    """Return the volume's files by their relative path. Raises ValueError with a sentence, Unready."""
    if "projected" in volume:
        return _projected(pod, volume["projected"] or {}, sources)
    if "configMap" in volume:
        return _config_map(pod, volume["configMap"], sources, mode_of(volume["configMap"]))
    if "secret" in volume:
        source = volume["secret"]
        return _secret(pod, {**source, "name": source.get("secretName", "")}, sources, mode_of(source))
    source = volume["downwardAPI"] or {}
    return _downward(pod, source, sources, mode_of(source))


def mode_of(source: Mapping[str, Any]) -> int:
    mode = source.get("defaultMode")
    return DEFAULT_MODE if mode is None else int(mode) & 0o777


def common_user(pod: Json) -> int | None:
    """Return the user that every container of the pod runs as, when the spec says one."""
    spec = pod.get("spec") or {}
    own = (spec.get("securityContext") or {}).get("runAsUser")
    users = {
        (container.get("securityContext") or {}).get("runAsUser", own)
        for key in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(key) or ()
    }
    only = users.pop() if len(users) == 1 else None
    return only if isinstance(only, int) else None


def _projected(pod: Json, volume: Json, sources: Sources) -> dict[str, File]:
    default = mode_of(volume)
    out: dict[str, File] = {}
    for source in volume.get("sources") or ():
        if "configMap" in source:
            out |= _config_map(pod, source["configMap"], sources, default)
        elif "secret" in source:
            out |= _secret(pod, source["secret"], sources, default)
        elif "downwardAPI" in source:
            out |= _downward(pod, source["downwardAPI"] or {}, sources, default)
        elif "serviceAccountToken" in source:
            out |= _token(pod, source["serviceAccountToken"], sources, default)
        else:
            raise ValueError(
                f"projected source {', '.join(source) or '(empty)'} is not supported on this node:"
                " it knows configMap, secret, downwardAPI and serviceAccountToken"
            )
    return out


def _config_map(pod: Json, source: Json, sources: Sources, mode: int) -> dict[str, File]:
    name, namespace = source.get("name", ""), pod["metadata"].get("namespace", "")
    found = sources.objects.get("configmaps", namespace, name)
    local_ca = sources.root_ca() if name == ROOT_CA else None
    if local_ca is not None:
        return _picked({"ca.crt": local_ca}, source, mode, "configmap")
    if found is None:
        if source.get("optional"):
            return {}
        raise ValueError(f'configmap "{name}" not found')
    content = {key: str(value).encode() for key, value in (found.get("data") or {}).items()}
    content |= {key: secret_bytes(value) for key, value in (found.get("binaryData") or {}).items()}
    return _picked(content, source, mode, "configmap")


def _secret(pod: Json, source: Json, sources: Sources, mode: int) -> dict[str, File]:
    name, namespace = source.get("name", ""), pod["metadata"].get("namespace", "")
    found = sources.objects.get("secrets", namespace, name)
    if found is None:
        if source.get("optional"):
            return {}
        raise ValueError(f'secret "{name}" not found')
    content = {key: secret_bytes(value) for key, value in (found.get("data") or {}).items()}
    return _picked(content, source, mode, "secret")


def _picked(content: Mapping[str, bytes], source: Json, mode: int, kind: str) -> dict[str, File]:
    items = source.get("items")
    if not items:
        return {checked(key): File(value, mode) for key, value in content.items()}
    out: dict[str, File] = {}
    for item in items:
        key = item.get("key", "")
        if key in content:
            out[checked(item.get("path", ""))] = File(content[key], _item_mode(item, mode))
        elif not source.get("optional"):
            raise ValueError(f"{kind} references non-existent config key: {key}")
    return out


def _downward(pod: Json, source: Json, sources: Sources, mode: int) -> dict[str, File]:
    return {
        checked(item.get("path", "")): File(_told(pod, item, sources.facts).encode(), _item_mode(item, mode))
        for item in source.get("items") or ()
    }


def _told(pod: Json, item: Json, facts: NodeFacts) -> str:
    if "fieldRef" in item:
        return downward.field(pod, item["fieldRef"].get("fieldPath", ""), facts, ())
    ref = item.get("resourceFieldRef") or {}
    spec = pod.get("spec") or {}
    containers: Iterable[Json] = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    for container in containers:
        if container.get("name") == ref.get("containerName"):
            return downward.resource(container, ref, facts)
    raise ValueError(f"container {ref.get('containerName', '')} not found")


def _token(pod: Json, source: Json, sources: Sources, mode: int) -> dict[str, File]:
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    path = checked(source.get("path", ""))
    namespace, account = metadata.get("namespace", ""), spec.get("serviceAccountName") or "default"
    audiences = (source["audience"],) if source.get("audience") else ()
    held = sources.held(path)
    token = held.decode("ascii", "replace") if held else ""
    if not token or not sources.tokens.fresh(token, namespace, account, audiences, metadata.get("uid", "")):
        lasting_s = int(source.get("expirationSeconds") or DEFAULT_TOKEN_S)
        token = sources.tokens.token(namespace, account, audiences, lasting_s, metadata["name"], metadata["uid"])
    user = common_user(pod)
    known = user is not None or (spec.get("securityContext") or {}).get("fsGroup") is not None
    return {path: File(token.encode(), TOKEN_MODE if known else mode, user)}


def _item_mode(item: Json, default: int) -> int:
    return default if item.get("mode") is None else int(item["mode"]) & 0o777


def checked(path: str) -> str:
    """Return a relative path that stays inside its volume. Raises ValueError."""
    parts = path.split("/")
    if not path or len(path) > MAX_PATH or path.startswith("/") or any(p in {"", ".", ".."} for p in parts):
        raise ValueError(f"invalid path: {path!r} must be relative and must not contain '..'")
    if parts[0].startswith(".."):
        raise ValueError(f"invalid path: {path!r} must not start with '..'")
    return path

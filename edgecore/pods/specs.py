"""Reading a Pod's spec (pure)."""

from collections.abc import Iterator
from typing import Any

from proto import labels

Json = dict[str, Any]
DEFAULT_GRACE_S = 30


def uid_of(pod: Json) -> str:
    return str(pod["metadata"].get("uid", ""))


def name_of(pod: Json) -> tuple[str, str]:
    """(namespace, name)."""
    return pod["metadata"].get("namespace", ""), pod["metadata"]["name"]


def init_containers(pod: Json) -> list[Json]:
    return pod["spec"].get("initContainers") or []


def main_containers(pod: Json) -> list[Json]:
    return pod["spec"].get("containers") or []


def ephemeral_containers(pod: Json) -> list[Json]:
    return pod["spec"].get("ephemeralContainers") or []


def every_container(pod: Json) -> Iterator[tuple[str, Json]]:
    """Yield (field of the spec, container)."""
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod["spec"].get(part) or []:
            yield part, container


def find(pod: Json, name: str) -> tuple[str, Json] | None:
    return next(((part, c) for part, c in every_container(pod) if c["name"] == name), None)


def field_path(pod: Json, name: str) -> str:
    """``spec.containers{NAME}``, as events name a container."""
    found = find(pod, name)
    return f"spec.{found[0] if found else 'containers'}{{{name}}}"


def is_sidecar(container: Json) -> bool:
    """Whether an init container keeps running beside the others."""
    return container.get("restartPolicy") == "Always"


def sidecars(pod: Json) -> list[Json]:
    return [c for c in init_containers(pod) if is_sidecar(c)]


def restart_policy(pod: Json) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def grace_s(pod: Json) -> int:
    """Seconds between asking and killing; of a pod under deletion what the deletion says."""
    asked = pod["metadata"].get("deletionGracePeriodSeconds")
    if asked is None:
        asked = pod["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_S if asked is None else max(0, int(asked))


def is_deleted(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_host_network(pod: Json) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def is_answered(pod: Json) -> bool:
    """Whether another pod ran in its place while the cloud was away (edgecore/localapi/answers.py)."""
    return bool((pod["metadata"].get("annotations") or {}).get(labels.ANSWERED_BY))


def is_static(pod: Json) -> bool:
    source = (pod["metadata"].get("annotations") or {}).get("kubernetes.io/config.source")
    return source is not None and source != "api"

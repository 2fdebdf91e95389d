"""Why a pod is not running as it should, in one sentence, from its object (pure)."""

from typing import Any

from edgecore.pods import specs
from edgecore.pods.specs import Json

NORMAL = {"ContainerCreating", "PodInitializing"}


def why(pod: Json) -> str:
    """Return one sentence, "" for a pod that runs and is ready, or has ended well."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    if not status:
        return "edgecore has not looked at it yet"
    if status.get("phase") == "Succeeded":
        return ""
    if status.get("phase") == "Failed":
        return status.get("message") or _ended(status) or status.get("reason") or "it failed"
    return _of_containers(pod, status) or _unready(status)


def _of_containers(pod: Json, status: Json) -> str:
    """The first container that explains itself; what all wait for comes last."""
    later = ""
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = one.get("state") or {}
        if (wait := state.get("waiting")) is not None:
            text = _waits(one, wait)
            if wait.get("reason") not in NORMAL or wait.get("message"):
                return text
            later = later or text
        elif (end := state.get("terminated")) is not None and (end.get("exitCode") or not _is_done(pod, one["name"])):
            later = later or f"container {one['name']} ended with exit code {end.get('exitCode')} ({end.get('reason')})"
    return later


def _is_done(pod: Json, name: str) -> bool:
    """Whether an end is what that container is for."""
    found = specs.find(pod, name)
    init = found is not None and found[0] == "initContainers"
    return init or specs.restart_policy(pod) != "Always"


def _waits(one: Json, wait: Json) -> str:
    name, reason, message = one["name"], wait.get("reason", ""), wait.get("message", "")
    if reason == "CrashLoopBackOff":
        end: dict[str, Any] = (one.get("lastState") or {}).get("terminated") or {}
        times = one.get("restartCount", 0)
        said = f": {end['message'].strip().splitlines()[-1]}" if (end.get("message") or "").strip() else ""
        return f"container {name} ends with exit code {end.get('exitCode')} again and again ({times} restarts){said}"
    if message:
        return f"container {name} waits ({reason}): {message}"
    return f"container {name} is being made"


def _ended(status: Json) -> str:
    for one in status.get("containerStatuses") or []:
        end = (one.get("state") or {}).get("terminated") or {}
        if end.get("exitCode"):
            return f"container {one['name']} ended with exit code {end['exitCode']} ({end.get('reason')})"
    return ""


def _unready(status: Json) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return str(condition.get("message") or condition.get("reason") or "it is not ready")
    return ""

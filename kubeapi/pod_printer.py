"""How a pod's row is computed: kubectl's one-word status out of phases, conditions and container states."""

from datetime import datetime
from typing import Any

from kubeapi.durations import UNKNOWN, age
from kubeapi.resources import Column

NONE = "<none>"
GATED = "SchedulingGated"
POD_COLUMNS = (
    Column("Name", "", "string", "name"),
    Column("Ready", ""),
    Column("Status", ""),
    Column("Restarts", ""),
    Column("Age", ""),
    Column("IP", "", priority=1),
    Column("Node", "", priority=1),
    Column("Nominated Node", "", priority=1),
    Column("Readiness Gates", "", priority=1),
)


def pod_cells(pod: dict[str, Any], now: datetime) -> list[Any]:
    """Return the cells of ``POD_COLUMNS``."""
    spec, status, metadata = (pod.get(part) or {} for part in ("spec", "status", "metadata"))
    containers = status.get("containerStatuses") or []
    sidecars = {c.get("name") for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    beside = [c for c in status.get("initContainerStatuses") or () if c.get("name") in sidecars]
    ready = sum(1 for c in containers if c.get("ready") and "running" in (c.get("state") or {}))
    ready += sum(1 for c in beside if c.get("started") and c.get("ready"))
    return [
        metadata.get("name", ""),
        f"{ready}/{len(spec.get('containers') or ()) + len(sidecars)}",
        _status(spec, status, metadata),
        _restarts(containers + beside, now),
        age(metadata.get("creationTimestamp"), now),
        next((ip.get("ip") for ip in status.get("podIPs") or ()), None) or status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(spec.get("readinessGates") or [], status.get("conditions") or []),
    ]


def _restarts(containers: list[dict[str, Any]], now: datetime) -> str:
    total = sum(int(c.get("restartCount") or 0) for c in containers)
    ends = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in containers]
    last = max(filter(None, ends), default=None)
    shown = age(last, now) if last else UNKNOWN
    return f"{total} ({shown} ago)" if total and shown != UNKNOWN else str(total)


def _gates(gates: list[dict[str, Any]], conditions: list[dict[str, Any]]) -> str:
    if not gates:
        return NONE
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    return f"{sum(1 for g in gates if g.get('conditionType') in true)}/{len(gates)}"


def _status(spec: dict[str, Any], status: dict[str, Any], metadata: dict[str, Any]) -> str:
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    if any(c.get("type") == "PodScheduled" and c.get("reason") == GATED for c in status.get("conditions") or ()):
        reason = GATED
    reason = _init_reason(spec, status) or _container_reason(status, reason)
    if metadata.get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _init_reason(spec: dict[str, Any], status: dict[str, Any]) -> str:
    wanted = spec.get("initContainers") or []
    sidecars = {c.get("name") for c in wanted if c.get("restartPolicy") == "Always"}
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if container.get("name") in sidecars and container.get("started"):
            continue
        if ended is not None:
            return f"Init:{_end(ended)}"
        if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(wanted)}"
    return ""


def _container_reason(status: dict[str, Any], reason: str) -> str:
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            reason = _end(state["terminated"])
        elif container.get("ready") and state.get("running") is not None:
            running = True
    if reason == "Completed" and running:
        is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
        return "Running" if is_ready else "NotReady"
    return reason


def _end(ended: dict[str, Any]) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"

"""PodStatus: phase, conditions, addresses, as kubelet shows them (pure; POD-10)."""

from typing import Any

from edgecore.pods import resize, specs
from edgecore.pods.seen import Memory
from edgecore.pods.specs import Json
from edgecore.pods.statuses import Looked, container_statuses
from kubeapi.pod_defaults import qos_class
from proto.told import gate_conditions, gates

OWN_CONDITIONS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    resize.PENDING,
    resize.IN_PROGRESS,
)
PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"


def pod_status(look: Looked, host_ips: tuple[str, ...]) -> Json:
    """The whole status. ``host_ips``: addresses of the node."""
    pod, memory = look.pod, look.memory
    init = container_statuses(look, specs.init_containers(pod), of_init=True)
    main = container_statuses(look, specs.main_containers(pod))
    ephemeral = container_statuses(look, specs.ephemeral_containers(pod))
    found = phase(pod, memory, init, main, look.before)
    ips = _ips(look, host_ips)
    conditions = _conditions(look, found, init, main, ips)
    if found == FAILED and memory.ended is not None and _never_began((*init, *main)):
        init, main = [], []  # else people would see what the containers waited for, not why the pod failed
    out: dict[str, Any] = {
        "phase": found,
        "conditions": conditions,
        "hostIP": host_ips[0] if host_ips else "",
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "startTime": memory.start_time,
        "qosClass": qos_class(pod["spec"]),
        "containerStatuses": main,
    }
    if ips:
        out |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    if init:
        out["initContainerStatuses"] = init
    if ephemeral:
        out["ephemeralContainerStatuses"] = ephemeral
    if memory.ended is not None:
        out |= {key: text for key, text in memory.ended._asdict().items() if text}
    elif memory.trouble is not None and found == PENDING:
        out["message"] = memory.trouble.message
    return out


def _never_began(statuses: tuple[Json, ...]) -> bool:
    return all("waiting" in status["state"] and not status["lastState"] for status in statuses)


def phase(pod: Json, memory: Memory, init: list[Json], main: list[Json], before: Json) -> str:
    """One word for the pod; Succeeded and Failed only when nothing of it runs, and then for ever."""
    if before.get("phase") in {SUCCEEDED, FAILED}:
        return str(before["phase"])
    runs = any("running" in status["state"] for status in (*init, *main))
    if memory.ended is not None:
        return _while_ending(init, main) if runs else FAILED
    if memory.stop_by_s is not None and not runs and memory.forgotten:
        return _after_deletion(main)
    early = _init_phase(pod, init, main, specs.restart_policy(pod))
    return early if early is not None else _main_phase(main, specs.restart_policy(pod), runs=runs)


def _main_phase(main: list[Json], policy: str, *, runs: bool) -> str:
    states = [status["state"] for status in main]
    if any("waiting" in state and not status["lastState"] for state, status in zip(states, main, strict=True)):
        return PENDING
    if any("terminated" not in state for state in states) or policy == "Always" or runs:
        return RUNNING
    if not any(state["terminated"]["exitCode"] for state in states):
        return SUCCEEDED
    return FAILED if policy == "Never" else RUNNING


def _init_phase(pod: Json, init: list[Json], main: list[Json], policy: str) -> str | None:
    if any("waiting" not in status["state"] or status["lastState"] for status in main):
        return None  # a main container has run: the init containers are history
    for container, status in zip(specs.init_containers(pod), init, strict=True):
        ended = status["state"].get("terminated")
        if specs.is_sidecar(container):
            if not status["started"]:
                return PENDING
        elif ended is not None and ended["exitCode"] != 0 and policy == "Never":
            return FAILED
        elif ended is None or ended["exitCode"] != 0:
            return PENDING
    return None


def _while_ending(init: list[Json], main: list[Json]) -> str:
    return RUNNING if any("waiting" not in status["state"] for status in (*main, *init)) else PENDING


def _after_deletion(main: list[Json]) -> str:
    ends = [status["state"].get("terminated") for status in main]
    good = bool(ends) and all(end is not None and end["exitCode"] == 0 for end in ends)
    return SUCCEEDED if good else FAILED


def _ips(look: Looked, host_ips: tuple[str, ...]) -> tuple[str, ...]:
    if specs.is_host_network(look.pod):
        return host_ips if look.seen.sandboxes else ()
    sandbox = look.seen.newest_sandbox()
    if sandbox is not None and sandbox.ips:
        return sandbox.ips
    return tuple(entry["ip"] for entry in look.before.get("podIPs") or [] if entry.get("ip"))


def _conditions(look: Looked, found: str, init: list[Json], main: list[Json], ips: tuple[str, ...]) -> list[Json]:
    pod = look.pod
    live = look.seen.live_sandbox() is not None and bool(ips)
    containers_ready = _containers_ready(pod, found, init, main)
    wanted = [
        _condition("PodReadyToStartContainers", live),
        _initialized(pod, found, init, main),
        _ready(pod, containers_ready),
        {**containers_ready, "type": "ContainersReady"},
        _condition("PodScheduled", True),
        *resize.conditions(look.memory, look.seen),
    ]
    old = {item.get("type"): item for item in look.before.get("conditions") or []}
    others = gates(pod)
    kept = [item for kind, item in old.items() if kind not in OWN_CONDITIONS and kind not in others]
    kept += gate_conditions(pod)  # newer than what we wrote last: the cloud may just have told us
    if (
        look.memory.ended is not None
        and look.memory.ended.reason in {"Evicted", "Terminated"}
        and not any(item.get("type") == "DisruptionTarget" for item in kept)
    ):
        ended = look.memory.ended
        wanted.append(_condition("DisruptionTarget", True, "TerminationByKubelet", ended.message))
    return [_timed(item, old.get(item["type"]), look.now) for item in wanted] + kept


def _initialized(pod: Json, found: str, init: list[Json], main: list[Json]) -> Json:
    if found == SUCCEEDED:
        return _condition("Initialized", True, "PodCompleted")
    begun = any("waiting" not in status["state"] or status["lastState"] for status in main)
    unfinished = []
    for container, status in zip(specs.init_containers(pod), init, strict=True):
        done = status["started"] or begun if specs.is_sidecar(container) else status["ready"] or begun
        if not done:
            unfinished.append(status["name"])
    if not unfinished:
        return _condition("Initialized", True)
    names = " ".join(unfinished)
    return _condition("Initialized", False, "ContainersNotInitialized", f"containers with incomplete status: [{names}]")


def _containers_ready(pod: Json, found: str, init: list[Json], main: list[Json]) -> Json:
    if found == SUCCEEDED:
        return _condition("ContainersReady", False, "PodCompleted")
    if found == FAILED:
        return _condition("ContainersReady", False, "PodFailed")
    beside = {c["name"] for c in specs.sidecars(pod)}
    unready = [s["name"] for s in [*(s for s in init if s["name"] in beside), *main] if not s["ready"]]
    if not unready:
        return _condition("ContainersReady", True)
    names = " ".join(unready)
    return _condition("ContainersReady", False, "ContainersNotReady", f"containers with unready status: [{names}]")


def _ready(pod: Json, containers: Json) -> Json:
    if containers["status"] != "True":
        return {**containers, "type": "Ready"}
    old = {item.get("type"): item.get("status") for item in gate_conditions(pod)}
    problems = []
    for gate in pod["spec"].get("readinessGates") or []:
        kind = gate.get("conditionType", "")
        if kind not in old:
            problems.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif old[kind] != "True":
            problems.append(f'the status of pod readiness gate "{kind}" is not "True", but {old[kind]}')
    if not problems:
        return _condition("Ready", True)
    return _condition("Ready", False, "ReadinessGatesNotReady", "; ".join(problems))


def _condition(kind: str, true: bool, reason: str = "", message: str = "") -> Json:
    out = {"type": kind, "status": "True" if true else "False"}
    if reason:
        out["reason"] = reason
    if message:
        out["message"] = message
    return out


def _timed(item: Json, before: Json | None, now: str) -> Json:
    same = before is not None and before.get("status") == item["status"]
    since = before.get("lastTransitionTime", now) if before is not None and same else now
    return {**item, "lastProbeTime": None, "lastTransitionTime": since}

"""In-place resize: what a pod's spec asks of CPU and memory, what this node has promised, what its containers were given (POD-17).

A wish is promised for the whole pod or not at all. What was given is in the container's status, so that a new process goes on from there.
"""

from collections.abc import Callable, Iterator
from typing import Any

from edgecore.pods import specs
from edgecore.pods.admission import NodeRoomLeft, requested
from edgecore.pods.runtime import Container, State
from edgecore.pods.seen import Kill, Memory, Seen, Waiting
from edgecore.pods.specs import Json
from kubeapi.quantities import BadQuantity, milli, units

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
INFEASIBLE, DEFERRED, ERROR = "Infeasible", "Deferred", "Error"
RETRY_S = 10.0  # what lacks room is asked again
MEASURES = {"cpu": milli, "memory": units}
PARTS = ("requests", "limits")


def resizable(pod: Json) -> Iterator[Json]:
    """Yield the containers whose resources may change while they run."""
    yield from specs.sidecars(pod)
    yield from specs.main_containers(pod)


def resources_of(container: Json) -> Json:
    """The container's requests and limits; what has none of them is left out."""
    held = container.get("resources") or {}
    return {part: dict(held[part]) for part in PARTS if held.get(part)}


def differing(one: Json, other: Json) -> list[str]:
    """Names of the resources whose requests or limits are not equal in value."""
    return [name for name in MEASURES if any(_value(one, part, name) != _value(other, part, name) for part in PARTS)]


def _value(resources: Json, part: str, name: str) -> Any:
    text = (resources.get(part) or {}).get(name)
    try:
        return None if text is None else MEASURES[name](text)
    except BadQuantity:
        return text


def promised(container: Json, memory: Memory) -> Json:
    """The container as this node has promised it: with other resources while a wish is pending."""
    held = memory.containers.get(container["name"])
    if held is None or held.promised is None or not differing(held.promised, resources_of(container)):
        return container
    return {**container, "resources": {**(container.get("resources") or {}), **_bare(held.promised)}}


def _bare(resources: Json) -> Json:
    return {part: resources.get(part) or {} for part in PARTS}


def as_promised(pod: Json, memory: Memory) -> Json:
    """The pod with what this node has promised each container."""
    spec = pod["spec"]
    changed = {
        part: [promised(container, memory) for container in spec.get(part) or []]
        for part in ("initContainers", "containers")
        if any(promised(container, memory) is not container for container in spec.get(part) or [])
    }
    return {**pod, "spec": {**spec, **changed}} if changed else pod


def decide(
    pod: Json, memory: Memory, seen: Seen, others: Callable[[], list[Json]], node: Callable[[], NodeRoomLeft]
) -> bool:
    """Promise what the spec asks for now if it fits beside ``others``, else note why not. Returns whether a refusal is new."""
    wishes = {}
    for container in resizable(pod):
        held, wanted = memory.held(container["name"]), resources_of(container)
        if held.promised is None:
            held.promised = wanted
        elif differing(held.promised, wanted):
            wishes[container["name"]] = container
    refused = _refusal(pod, others(), node()) if wishes else None
    new, memory.resize = refused is not None and refused != memory.resize, refused
    if refused is None:
        for name, container in wishes.items():
            memory.held(name).promised = resources_of(container)
    for container in resizable(pod):
        _mark_restart(container, memory, seen.newest(container["name"]))
    return new


def _refusal(pod: Json, others: list[Json], node: NodeRoomLeft) -> Waiting | None:
    if specs.is_static(pod):
        return Waiting(INFEASIBLE, "In-place resize of static-pods is not supported")
    for name in MEASURES:
        wanted, room = requested(pod, name), node.allocatable.get(name, 0)
        if wanted > room:
            return Waiting(
                INFEASIBLE, f"Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {room}"
            )
        used = sum(requested(other, name) for other in others)
        if wanted and used + wanted > room:
            text = f"Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {room}"
            return Waiting(DEFERRED, text)
    return None


def _mark_restart(container: Json, memory: Memory, now: Container | None) -> None:
    """A container whose resizePolicy wants it gets what was promised by a restart, without back-off."""
    held = memory.held(container["name"])
    if now is None or now.state is not State.RUNNING or (held.kill is not None and held.kill.container_id == now.id):
        return
    changed = lacking(memory, now)
    policy = {item.get("resourceName"): item.get("restartPolicy") for item in container.get("resizePolicy") or ()}
    if any(policy.get(name) == "RestartContainer" for name in changed):
        message = f"Container {now.name} resize requires restart"
        held.kill = Kill(now.id, message, restart=True, forgiven=True)


def lacking(memory: Memory, now: Container) -> list[str]:
    """Names of the resources of which a running container has not yet what it was promised."""
    held = memory.containers.get(now.name)
    if held is None or held.container_id != now.id or held.promised is None or held.given is None:
        return []
    return differing(held.given, held.promised)


def shown(container: Json, memory: Memory, *, running: bool) -> Json:
    """``resources`` and ``allocatedResources`` of a container's status."""
    held = memory.containers.get(container["name"])
    first = resources_of(container)
    allocated = first if held is None or held.promised is None else held.promised
    given = allocated if held is None or held.given is None or not running else held.given
    out: Json = {"resources": given}
    if allocated.get("requests"):
        out["allocatedResources"] = dict(allocated["requests"])
    return out


def conditions(memory: Memory, seen: Seen) -> list[Json]:
    """The two conditions of a resize, while they hold."""
    out: list[Json] = []
    if memory.resize is not None:
        reason, message = memory.resize
        out.append({"type": PENDING, "status": "True", "reason": reason, "message": message})
    if any(c.state is State.RUNNING and lacking(memory, c) for c in seen.containers.values()):
        failed = {"reason": ERROR, "message": memory.resize_failed} if memory.resize_failed else {}
        out.append({"type": IN_PROGRESS, "status": "True", **failed})
    return out

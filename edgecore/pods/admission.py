"""Whether this node can take a pod at all, as kubelet decides it: once, before anything of it is made (pure; POD-13)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecore.pods import security, specs
from edgecore.pods.seen import Ended
from edgecore.pods.specs import Json
from edgecore.pods.unready import Unready
from kubeapi.pod_defaults import qos_class
from kubeapi.quantities import BadQuantity, milli, units

MEASURED = {"cpu": milli, "memory": units, "ephemeral-storage": units}
CRITICAL_PRIORITY = 2_000_000_000
MEMORY_PRESSURE, DISK_PRESSURE = PRESSURES = ("MemoryPressure", "DiskPressure")
REASONS = {"cpu": "OutOfcpu", "memory": "OutOfmemory", "ephemeral-storage": "OutOfephemeral-storage"}


@dataclass(frozen=True, slots=True)
class NodeRoomLeft:
    """The node as pods see it; ``allocatable`` in the units of ``MEASURED``, and ``pods``."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, int]
    pressures: frozenset[str] = frozenset()  # of which this node runs dry now


def refusal(pod: Json, others: Iterable[Json], node: NodeRoomLeft) -> Ended | None:
    """Say why ``pod`` cannot run beside ``others`` (pods of this node that have not ended); None: it can."""
    others = list(others)
    if (forbidden := _forbidden(pod)) is not None:
        return forbidden
    if dry := _pressing(pod, node):
        return Ended("Evicted", f"The node had condition: [{' '.join(dry)}]. ")
    if not selected(pod, node):
        return Ended("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
    if clash := _port_clash(pod, others):
        return Ended("NodePorts", f"Predicate NodePorts failed: node(s) didn't have free ports: {clash} is taken")
    if len(others) + 1 > node.allocatable.get("pods", 0):
        return _lacks("pods", 1, len(others), node.allocatable.get("pods", 0), "OutOfpods")
    return _out_of(pod, others, node)


def _forbidden(pod: Json) -> Ended | None:
    """What no time and no other pod's end makes possible here."""
    spec = pod["spec"]
    system = (spec.get("os") or {}).get("name", "linux")
    if system != "linux":
        return Ended("PodOSNotSupported", f"Failed to admit pod as the OS field doesn't match node OS: {system}")
    try:
        security.sysctls(spec)
    except Unready as error:
        return Ended(error.reason, error.message)
    for owner in (spec, *(container for _, container in specs.every_container(pod))):
        context = owner.get("securityContext") or {}
        if (context.get("appArmorProfile") or {}).get("type") == "Localhost":
            return Ended("AppArmor", "Cannot enforce AppArmor: this node loads no profiles of its own")
    if (spec.get("securityContext") or {}).get("supplementalGroupsPolicy") == "Strict":
        text = "SupplementalGroupsPolicy=Strict is not supported in this node"
        return Ended("SupplementalGroupsPolicyNotSupported", text)
    return None


def _pressing(pod: Json, node: NodeRoomLeft) -> list[str]:
    """Conditions of the node under which this pod may not begin; a critical or a static pod may always."""
    if specs.is_static(pod) or int(pod["spec"].get("priority") or 0) >= CRITICAL_PRIORITY:
        return []
    modest = qos_class(pod["spec"]) != "BestEffort"
    return [name for name in PRESSURES if name in node.pressures and not (name == MEMORY_PRESSURE and modest)]


def _out_of(pod: Json, others: list[Json], node: NodeRoomLeft) -> Ended | None:
    for resource, reason in REASONS.items():
        wanted = requested(pod, resource)
        used = sum(requested(other, resource) for other in others)
        if wanted and used + wanted > node.allocatable.get(resource, 0):
            return _lacks(resource, wanted, used, node.allocatable.get(resource, 0), reason)
    return None


def _lacks(resource: str, wanted: int, used: int, capacity: int, reason: str) -> Ended:
    text = f"Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
    return Ended(reason, text)


def requested(pod: Json, resource: str) -> int:
    """What a pod asks for: its containers with their sidecars, or its largest init container with those before it."""
    measure = MEASURED[resource]

    def of(container: Json) -> int:
        resources = container.get("resources") or {}
        asked = (resources.get("requests") or {}).get(resource, (resources.get("limits") or {}).get(resource, 0))
        try:
            return measure(asked)
        except BadQuantity:
            return 0  # the API refuses those; a static pod's is told by the builder

    beside = highest = 0
    for container in specs.init_containers(pod):
        if specs.is_sidecar(container):
            beside += of(container)
            highest = max(highest, beside)
        else:
            highest = max(highest, beside + of(container))
    running = beside + sum(of(container) for container in specs.main_containers(pod))
    overhead = (pod["spec"].get("overhead") or {}).get(resource, 0)
    return max(highest, running) + measure(overhead)


def host_ports(pod: Json) -> set[tuple[str, int, str]]:
    """(protocol, port, address) of every port of the node that the pod takes."""
    out = set()
    for _, container in specs.every_container(pod):
        for port in container.get("ports") or []:
            taken = port.get("hostPort") or (port.get("containerPort") if specs.is_host_network(pod) else 0)
            if taken:
                out.add((port.get("protocol") or "TCP", int(taken), port.get("hostIP") or "0.0.0.0"))  # noqa: S104
    return out


def _port_clash(pod: Json, others: list[Json]) -> str:
    wanted = host_ports(pod)
    if not wanted:
        return ""
    for other in others:
        for protocol, port, address in host_ports(other):
            for mine in wanted:
                either = mine[2] == address or "0.0.0.0" in (mine[2], address)  # noqa: S104
                if mine[:2] == (protocol, port) and either:
                    return f"{protocol} {port}"
    return ""


def selected(pod: Json, node: NodeRoomLeft) -> bool:
    """Whether nodeSelector and the required node affinity match this node."""
    labels = node.labels
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    terms = (affinity or {}).get("nodeSelectorTerms")
    return terms is None or any(_term(term, node) for term in terms)


def _term(term: Mapping[str, Any], node: NodeRoomLeft) -> bool:
    by_label, by_field = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not by_label and not by_field:
        return False
    fields = {"metadata.name": node.name}
    return all(_matches(e, node.labels) for e in by_label) and all(_matches(e, fields) for e in by_field)


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression.get("key", "")), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            return _compares(operator, value, values)
    return False


def _compares(operator: str, value: str | None, values: list[str]) -> bool:
    try:
        have, want = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return have > want if operator == "Gt" else have < want

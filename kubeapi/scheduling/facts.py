"""What scheduling needs to know of a pod and of a node, read once per change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubeapi.controllers.index import controller_of
from kubeapi.quantities import BadQuantity, milli, units

Json = dict[str, Any]
Key = tuple[str, str]  # namespace, name
Amounts = dict[str, int]  # cpu in thousandths, everything else in units
Port = tuple[str, str, int]  # address, protocol, number
REQUIRED, PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
FINISHED = ("Failed", "Succeeded")
ANY = ("", "0.0.0.0", "::")  # noqa: S104  what a host port without an address means
DEFAULT_PODS = 110


def read_amounts(values: Mapping[str, Any] | None) -> Amounts:
    """Return amounts as integers; one that cannot be read counts as none."""
    out: Amounts = {}
    for name, value in (values or {}).items():
        try:
            out[name] = milli(value) if name == "cpu" else units(value)
        except BadQuantity:
            continue
    return out


def requests_of(spec: Json) -> Amounts:
    """Return what a pod holds for itself: its containers together, or an init container that needs more, and the overhead."""
    total: Amounts = {}
    beside: Amounts = {}  # sidecars so far: they run beside every later init container
    peak: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, _requests(container))
    for container in spec.get("initContainers") or ():
        needs = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(total, needs)
            _add(beside, needs)
            needs = dict(beside)
        else:
            _add(needs, beside)
        for name, value in needs.items():
            peak[name] = max(peak.get(name, 0), value)
    for name, value in peak.items():
        total[name] = max(total.get(name, 0), value)
    _add(total, read_amounts(spec.get("overhead")))
    return total


def _requests(container: Json) -> Amounts:
    return read_amounts((container.get("resources") or {}).get("requests"))


def _add(total: Amounts, more: Amounts) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def host_ports(spec: Json) -> tuple[Port, ...]:
    """Return the ports of the host that a pod takes."""
    containers = [*(spec.get("containers") or ())]
    containers += [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    return tuple(
        (p.get("hostIP") or "", p.get("protocol") or "TCP", p["hostPort"])
        for c in containers
        for p in c.get("ports") or ()
        if p.get("hostPort")
    )


def ports_collide(wanted: Iterable[Port], held: Iterable[Port]) -> bool:
    """Whether one of the ports is taken; no address is every address."""
    taken = list(held)
    return any(
        port == number and protocol == other and (ip == at or ip in ANY or at in ANY)
        for ip, protocol, port in wanted
        for at, other, number in taken
    )


@dataclass(slots=True, eq=False)
class Pod:
    """One pod; ``terms`` are its rules about other pods (none for most)."""

    key: Key
    uid: str
    labels: Mapping[str, str]
    node: str
    priority: int
    requests: Amounts
    ports: tuple[Port, ...]
    owner: str  # uid of its controller
    terms: Json  # the affinity's podAffinity and podAntiAffinity
    claims: tuple[str, ...]
    deleting: bool
    since: str  # creationTimestamp
    spec: Json

    @property
    def anti(self) -> list[Json]:
        """Its required anti-affinity terms."""
        return (self.terms.get("podAntiAffinity") or {}).get(REQUIRED) or []


def read_pod(obj: Json) -> Pod:
    """Read a stored Pod."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    affinity = spec.get("affinity") or {}
    owner = controller_of(obj)
    claims = [
        v["persistentVolumeClaim"].get("claimName", "")
        for v in spec.get("volumes") or ()
        if v.get("persistentVolumeClaim")
    ]
    return Pod(
        key=(metadata.get("namespace", ""), metadata["name"]),
        uid=metadata["uid"],
        labels=metadata.get("labels") or {},
        node=spec.get("nodeName") or "",
        priority=spec.get("priority") or 0,
        requests=requests_of(spec),
        ports=host_ports(spec),
        owner=str(owner.get("uid", "")) if owner else "",
        terms={k: affinity[k] for k in ("podAffinity", "podAntiAffinity") if affinity.get(k)},
        claims=tuple(claims),
        deleting=bool(metadata.get("deletionTimestamp")),
        since=metadata.get("creationTimestamp") or "",
        spec=spec,
    )


@dataclass(slots=True, eq=False)
class Shape:
    """What of a Node decides who may run there; a new one only when that changes, so that answers can be kept by it."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Json, ...]
    unschedulable: bool


@dataclass(slots=True, eq=False)
class Node:
    """One node and what runs there."""

    shape: Shape
    allocatable: Amounts
    most_pods: int
    pods: dict[Key, Pod] = field(default_factory=dict)
    used: Amounts = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)  # controller uid -> its pods here

    def add(self, pod: Pod) -> None:
        self.pods[pod.key] = pod
        _add(self.used, pod.requests)
        if pod.owner:
            self.owners[pod.owner] = self.owners.get(pod.owner, 0) + 1

    def remove(self, key: Key) -> None:
        pod = self.pods.pop(key, None)
        if pod is None:
            return
        for name, value in pod.requests.items():
            self.used[name] -= value
        if pod.owner:
            self.owners[pod.owner] -= 1
            if not self.owners[pod.owner]:
                del self.owners[pod.owner]


def read_shape(obj: Json) -> Shape:
    spec = obj.get("spec") or {}
    labels = obj["metadata"].get("labels") or {}
    return Shape(obj["metadata"]["name"], labels, tuple(spec.get("taints") or ()), bool(spec.get("unschedulable")))


def same_shape(one: Shape, other: Shape) -> bool:
    return (one.labels, one.taints, one.unschedulable) == (other.labels, other.taints, other.unschedulable)


def read_room(obj: Json) -> tuple[Amounts, int]:
    """Return (allocatable, most pods) of a stored Node; what it does not say has no bound but for pods."""
    status = obj.get("status") or {}
    amounts = read_amounts(status.get("allocatable") or status.get("capacity"))
    return amounts, amounts.pop("pods", DEFAULT_PODS)

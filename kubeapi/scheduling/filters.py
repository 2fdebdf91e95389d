"""May this pod run on this node? Each filter answers with a reason, "" for yes; reasons are counted and shown to people."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubeapi.label_selectors import requirement
from kubeapi.scheduling.facts import REQUIRED, Node, Pod, Shape, ports_collide
from proto.kit import canonical

Json = dict[str, Any]
Verdict = Callable[[Shape], str]
UNSCHEDULABLE = "node(s) were unschedulable"
NO_MATCH = "node(s) didn't match Pod's node affinity/selector"
NO_PORTS = "node(s) didn't have free ports for the requested pod ports"
TOO_MANY = "Too many pods"
UNSCHEDULABLE_TAINT: Json = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
HARD = ("NoExecute", "NoSchedule")
KEPT_SHAPES = 256


def tolerates(tolerations: Iterable[Json], taint: Mapping[str, Any]) -> bool:
    """Whether one of the tolerations covers the taint."""
    return any(_covers(t, taint) for t in tolerations)


def _covers(toleration: Json, taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(tolerations: list[Json], taints: Iterable[Json], effects: tuple[str, ...] = HARD) -> Json | None:
    """Return the first taint that keeps the pod away."""
    return next((t for t in taints if t.get("effect") in effects and not tolerates(tolerations, t)), None)


def node_term(term: Json) -> Callable[[Shape], bool]:
    """Return the test of one node selector term; an empty one matches nothing."""
    labels = [requirement(e) for e in term.get("matchExpressions") or ()]
    names = [requirement({**e, "key": "name"}) for e in term.get("matchFields") or ()]
    if not labels and not names:
        return lambda _: False
    return lambda shape: all(t(shape.labels) for t in labels) and all(t({"name": shape.name}) for t in names)


def node_selector(selector: Json | None) -> Callable[[Shape], bool]:
    """Return the test of a node selector: one of its terms must match. None matches everything."""
    if selector is None:
        return lambda _: True
    terms = [node_term(term) for term in selector.get("nodeSelectorTerms") or ()]
    return lambda shape: any(term(shape) for term in terms)


def wants_node(spec: Json) -> Callable[[Shape], bool]:
    """Return the test of nodeSelector and required node affinity."""
    pairs = tuple((spec.get("nodeSelector") or {}).items())
    affinity = node_selector(((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED))
    return lambda shape: all(shape.labels.get(k) == v for k, v in pairs) and affinity(shape)


def named_nodes(spec: Json) -> set[str] | None:
    """Return the only nodes that a pod may run on when its affinity names them; None when it does not."""
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    terms = (required or {}).get("nodeSelectorTerms") or ()
    out: set[str] = set()
    for term in terms:
        fields = [
            e for e in term.get("matchFields") or () if e.get("key") == "metadata.name" and e.get("operator") == "In"
        ]
        if not fields:
            return None
        out.update(fields[0].get("values") or ())
    return out if terms else None


def fixed_verdict(spec: Json) -> Verdict:
    """Return the part of the answer that only a change of the node's shape can change."""
    tolerations = spec.get("tolerations") or []
    wants = wants_node(spec)

    def verdict(shape: Shape) -> str:
        if shape.unschedulable and not tolerates(tolerations, UNSCHEDULABLE_TAINT):
            return UNSCHEDULABLE
        taint = untolerated(tolerations, shape.taints)
        if taint is not None:
            return f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"
        return "" if wants(shape) else NO_MATCH

    return verdict


class Verdicts:
    """Fixed verdicts kept per kind of pod and node: the pods of one template ask once."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, tuple[Verdict, dict[str, tuple[Shape, str]]]] = OrderedDict()

    def of(self, spec: Json) -> Verdict:
        """Return the verdict function for pods of this spec."""
        affinity = (spec.get("affinity") or {}).get("nodeAffinity")
        key = canonical.encode([spec.get("nodeSelector"), affinity, spec.get("tolerations")])
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = (fixed_verdict(spec), {})
            if len(self._held) > KEPT_SHAPES:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(key)
        decide, answers = held

        def verdict(shape: Shape) -> str:
            answer = answers.get(shape.name)
            if answer is None or answer[0] is not shape:
                answer = answers[shape.name] = (shape, decide(shape))
            return answer[1]

        return verdict


def lacks(pod: Pod, node: Node, also: Iterable[Pod] = ()) -> list[str]:
    """Return what the node has too little of; ``also`` are pods that count though they are not there yet."""
    out = []
    others = [p for p in also if p.key != pod.key and p.key not in node.pods]
    if len(node.pods) + len(others) + 1 > node.most_pods:
        out.append(TOO_MANY)
    for name, wanted in pod.requests.items():
        if not wanted:
            continue
        room = node.allocatable.get(name)
        if room is None:
            if name in ("cpu", "memory", "ephemeral-storage"):
                continue  # the node did not say: no bound is known
            room = 0
        used = node.used.get(name, 0) + sum(p.requests.get(name, 0) for p in others)
        if used + wanted > room:
            out.append(f"Insufficient {name}")
    return out


def port_free(pod: Pod, node: Node) -> bool:
    return not pod.ports or not any(
        ports_collide(pod.ports, other.ports) for other in node.pods.values() if other.ports
    )

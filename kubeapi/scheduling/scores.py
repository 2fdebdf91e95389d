"""Which of the nodes that may is the best: preferences first, then room, then fewest siblings."""

from collections.abc import Sequence
from typing import Any

from kubeapi.label_selectors import label_test
from kubeapi.scheduling.facts import PREFERRED, REQUIRED, Node, Pod
from kubeapi.scheduling.filters import node_term, tolerates
from kubeapi.scheduling.neighbours import Neighbours, constraints
from kubeapi.scheduling.nodes import Nodes

Json = dict[str, Any]
# how much each view counts; each is scaled to 0..100 over the nodes in question
WEIGHTS = {"taints": 3, "affinity": 2, "spread": 2, "neighbours": 2, "siblings": 2, "room": 1, "balance": 1}
HARD_AFFINITY_WEIGHT = 1  # what another pod's required affinity adds for a pod that it wants near


class Scores:
    """Ranks nodes for one pod at a time."""

    def __init__(self, nodes: Nodes, neighbours: Neighbours) -> None:
        self._nodes, self._neighbours = nodes, neighbours

    def best(self, pod: Pod, found: Sequence[Node]) -> Node:
        """Return the best node; ``found`` is not empty. Equal ones keep their order."""
        if len(found) == 1:
            return found[0]
        total = [0.0] * len(found)
        for name, values in self._views(pod, found):
            low, high = min(values), max(values)
            if high > low:
                for i, value in enumerate(values):
                    total[i] += WEIGHTS[name] * 100.0 * (value - low) / (high - low)
        return found[max(range(len(found)), key=total.__getitem__)]

    def _views(self, pod: Pod, found: Sequence[Node]) -> list[tuple[str, list[float]]]:
        out = [("room", [_room(pod, n) for n in found]), ("balance", [_balance(pod, n) for n in found])]
        if pod.owner:
            out.append(("siblings", [-float(n.owners.get(pod.owner, 0)) for n in found]))
        if any(n.shape.taints for n in found):
            tolerations = pod.spec.get("tolerations") or []
            out.append(("taints", [-_soft_taints(tolerations, n) for n in found]))
        wishes = ((pod.spec.get("affinity") or {}).get("nodeAffinity") or {}).get(PREFERRED) or ()
        if wishes:
            tests = [(w.get("weight", 0), node_term(w.get("preference") or {})) for w in wishes]
            out.append(("affinity", [float(sum(w for w, test in tests if test(n.shape))) for n in found]))
        soft = [c for c in constraints(pod) if c.get("whenUnsatisfiable") == "ScheduleAnyway"]
        if soft:
            out.append(("spread", self._spread(pod, soft, found)))
        if pod.terms or self._nodes.choosy:
            out.append(("neighbours", self._near(pod, found)))
        return out

    def _spread(self, pod: Pod, soft: list[Json], found: Sequence[Node]) -> list[float]:
        out = [0.0] * len(found)
        for constraint in soft:
            counts, _ = self._neighbours.counts(pod, constraint)
            key, worst = constraint["topologyKey"], max(counts.values(), default=0) + 1
            for i, node in enumerate(found):
                out[i] -= counts.get(node.shape.labels.get(key, ""), worst)
        return out

    def _near(self, pod: Pod, found: Sequence[Node]) -> list[float]:
        """Add up what this pod wishes of others, and others of this pod, per topology."""
        pairs: dict[tuple[str, str], float] = {}

        def add(key: str, node: str, weight: float) -> None:
            shape = self._nodes.shape(node)
            if shape is not None and key in shape.labels:
                pair = (key, shape.labels[key])
                pairs[pair] = pairs.get(pair, 0.0) + weight

        for term, weight in _wishes(pod):
            for node, _ in self._neighbours.matching(self._neighbours.namespaces(term, pod), term.get("labelSelector")):
                add(str(term.get("topologyKey")), node, weight)
        for other in self._nodes.choosy.values():
            for term, weight in _wishes(other, hard=HARD_AFFINITY_WEIGHT):
                if pod.key[0] in self._neighbours.namespaces(term, other) and label_test(term.get("labelSelector"))(
                    pod.labels
                ):
                    add(str(term.get("topologyKey")), other.node, weight)
        return [sum(w for (key, value), w in pairs.items() if n.shape.labels.get(key) == value) for n in found]


def _wishes(pod: Pod, hard: int = 0) -> list[tuple[Json, float]]:
    out: list[tuple[Json, float]] = []
    for kind, sign in (("podAffinity", 1.0), ("podAntiAffinity", -1.0)):
        rules = pod.terms.get(kind) or {}
        out += [(w.get("podAffinityTerm") or {}, sign * w.get("weight", 0)) for w in rules.get(PREFERRED) or ()]
        if hard and kind == "podAffinity":
            out += [(term, float(hard)) for term in rules.get(REQUIRED) or ()]
    return out


def _soft_taints(tolerations: list[Json], node: Node) -> float:
    return float(
        sum(1 for t in node.shape.taints if t.get("effect") == "PreferNoSchedule" and not tolerates(tolerations, t))
    )


def _shares(pod: Pod, node: Node) -> list[float]:
    """Return how much of CPU and memory would be taken; a pod that asks for nothing counts as a small one."""
    out = []
    for name, least in (("cpu", 100), ("memory", 200 << 20)):
        room = node.allocatable.get(name)
        if room:
            out.append(min(1.0, (node.used.get(name, 0) + max(pod.requests.get(name, 0), least)) / room))
    return out


def _room(pod: Pod, node: Node) -> float:
    shares = [*_shares(pod, node), (len(node.pods) + 1) / max(1, node.most_pods)]
    return 1.0 - sum(shares) / len(shares)


def _balance(pod: Pod, node: Node) -> float:
    shares = _shares(pod, node)
    return 1.0 - abs(shares[0] - shares[1]) / 2 if len(shares) == 2 else 1.0

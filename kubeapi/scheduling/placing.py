"""One pod's way to a node: filters in the order of their price, sampling where there are many nodes, scores, the sentence."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeapi.scheduling.claims import Claims
from kubeapi.scheduling.facts import Key, Node, Pod, Shape
from kubeapi.scheduling.filters import NO_PORTS, Verdicts, lacks, named_nodes, port_free
from kubeapi.scheduling.neighbours import Neighbours
from kubeapi.scheduling.nodes import Nodes
from kubeapi.scheduling.scores import Scores

ENOUGH = 100  # nodes that may run the pod: more are not looked for, the best of these is good enough
Verdict = Callable[[Shape], str]


@dataclass(slots=True)
class Unplaced:
    """Why no node was found. ``fixed`` are nodes that no preemption could open."""

    problem: str = ""  # of the pod itself; "" when the nodes refused
    reasons: Counter[str] = field(default_factory=Counter)
    refused: dict[str, bool] = field(default_factory=dict)  # node -> whether removing pods could help
    nodes: int = 0

    def sentence(self, preemption: str = "") -> str:
        """Return what people read in the FailedScheduling event."""
        if self.problem:
            return f"0/{self.nodes} nodes are available: {self.problem}.{preemption}"
        if not self.nodes:
            return "no nodes available to schedule pods"
        counted = sorted(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"0/{self.nodes} nodes are available: {', '.join(counted)}.{preemption}"


class Placing:
    """Finds nodes for pods. ``nominated`` are pods that others are making room for, by node."""

    def __init__(self, nodes: Nodes, neighbours: Neighbours, claims: Claims) -> None:
        self.nodes, self._neighbours, self._claims = nodes, neighbours, claims
        self._verdicts = Verdicts()
        self._scores = Scores(nodes, neighbours)
        self._next = 0  # where the next search begins, so that samples go round
        self.nominated: dict[str, dict[Key, Pod]] = {}

    def place(self, pod: Pod) -> Node | Unplaced:
        """Return the best node, or why there is none."""
        out = Unplaced(problem=self._claims.problem(pod), nodes=len(self.nodes.by_name))
        if out.problem:
            return out
        found = self._search(pod, out)
        return self._scores.best(pod, found) if found else out

    def _search(self, pod: Pod, out: Unplaced) -> list[Node]:
        only = named_nodes(pod.spec)
        if only is not None:
            candidates = [self.nodes.by_name[name] for name in only if name in self.nodes.by_name]
            others = out.nodes - len(candidates)
            if others:
                out.reasons["node(s) didn't match Pod's node affinity/selector"] += others
        else:
            everything = list(self.nodes.by_name.values())
            begin = self._next % len(everything) if everything else 0
            candidates = everything[begin:] + everything[:begin]
        verdicts = self.verdicts(pod)
        found: list[Node] = []
        for looked, node in enumerate(candidates, 1):
            reasons, helps = self.check(pod, node, verdicts)
            if reasons:
                out.reasons.update(reasons)
                out.refused[node.shape.name] = helps
                continue
            found.append(node)
            if len(found) >= ENOUGH:
                self._next += looked
                break
        return found

    def verdicts(self, pod: Pod, without: frozenset[Key] = frozenset()) -> tuple[Verdict, ...]:
        """Return the tests by shape: fixed, volumes (no preemption helps), spreading, neighbours."""
        return (
            self._verdicts.of(pod.spec),
            self._claims.verdict(pod),
            self._neighbours.spreading(pod, without),
            self._neighbours.rules(pod, without),
        )

    def check(self, pod: Pod, node: Node, verdicts: tuple[Verdict, ...]) -> tuple[list[str], bool]:
        """Return (reasons against the node, whether removing pods could help)."""
        fixed, volumes, spreading, rules = verdicts
        for verdict in (fixed, volumes):
            reason = verdict(node.shape)
            if reason:
                return [reason], False
        if not port_free(pod, node):
            return [NO_PORTS], True
        waiting = self.nominated.get(node.shape.name)
        also = [p for p in waiting.values() if p.priority >= pod.priority] if waiting else ()
        missing = lacks(pod, node, also)
        if missing:
            return missing, True
        for verdict in (spreading, rules):
            reason = verdict(node.shape)
            if reason:
                return [reason], True
        return [], True

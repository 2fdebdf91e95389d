"""Preemption: which pods of lower priority would have to go, on which node it hurts least. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from kubeapi.scheduling.facts import Node, Pod
from kubeapi.scheduling.placing import Placing, Unplaced

Protected = Callable[[list[Pod]], set[str]]  # the uids of those whose disruption budgets would be broken
MOST_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Victims on one node; ``broken`` counts the disruption budgets that it breaks."""

    node: str
    victims: tuple[Pod, ...]
    broken: int


def plan(placing: Placing, pod: Pod, failed: Unplaced, protected: Protected) -> tuple[Plan | None, str]:
    """Return the plan that hurts least, and the sentence about it for people."""
    total = failed.nodes
    if pod.spec.get("preemptionPolicy") == "Never":
        return None, f" preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
    helpful = [name for name, helps in failed.refused.items() if helps]
    plans = []
    for name in helpful:
        node = placing.nodes.by_name[name]
        if any(other.priority < pod.priority for other in node.pods.values()):
            made = _on(placing, pod, node, protected)
            if made is not None:
                plans.append(made)
                if len(plans) >= MOST_CANDIDATES:
                    break
    if plans:
        return min(plans, key=_pain), ""
    counts = {
        "Preemption is not helpful for scheduling": total - len(helpful),
        "No preemption victims found for incoming pod": len(helpful),
    }
    listed = ", ".join(sorted(f"{count} {text}" for text, count in counts.items() if count))
    return None, f" preemption: 0/{total} nodes are available: {listed}." if listed else ""


def _on(placing: Placing, pod: Pod, node: Node, protected: Protected) -> Plan | None:
    """Return who must go here: all of lower priority are thought away, then as many as fit are let back."""
    lower = sorted(
        (other for other in node.pods.values() if other.priority < pod.priority),
        key=lambda p: (-p.priority, p.since, p.key),
    )
    gone = {other.key: other for other in lower}
    if not _fits(placing, pod, node, gone):
        return None
    guarded = protected(lower)
    victims, broken = [], 0
    for other in sorted(lower, key=lambda p: p.uid not in guarded):  # the protected are let back first
        del gone[other.key]
        if not _fits(placing, pod, node, gone):
            gone[other.key] = other
            victims.append(other)
            broken += other.uid in guarded
    return Plan(node.shape.name, tuple(victims), broken) if victims else None


def _fits(placing: Placing, pod: Pod, node: Node, gone: dict[tuple[str, str], Pod]) -> bool:
    rest = Node(node.shape, node.allocatable, node.most_pods)
    for other in node.pods.values():
        if other.key not in gone:
            rest.add(other)
    reasons, _ = placing.check(pod, rest, placing.verdicts(pod, frozenset(gone)))
    return not reasons


def _pain(made: Plan) -> tuple[int, int, int, int, str]:
    priorities = [victim.priority for victim in made.victims]
    return (made.broken, max(priorities), sum(priorities), len(priorities), made.node)

"""Rules about other pods: required affinity and anti-affinity of both sides, and topology spreading."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubeapi.kinds import NAMESPACE
from kubeapi.label_selectors import label_test
from kubeapi.scheduling.facts import REQUIRED, Key, Pod, Shape
from kubeapi.scheduling.filters import tolerates, wants_node
from kubeapi.scheduling.nodes import Nodes
from kubeapi.store import Store

Json = dict[str, Any]
Selected = Callable[[str, Any], list[Json]]  # (namespace, selector) -> stored pods
Pair = tuple[str, str]  # topology key, value
AFFINITY = "node(s) didn't match pod affinity rules"
ANTI = "node(s) didn't match pod anti-affinity rules"
REFUSED = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_LABEL = SPREAD + " (missing required label)"


class Neighbours:
    """Reads the rules of one pod against everything that runs."""

    def __init__(self, store: Store, nodes: Nodes, selected: Selected) -> None:
        self._store, self._nodes, self._selected = store, nodes, selected

    def namespaces(self, term: Json, pod: Pod) -> set[str]:
        """Return the namespaces that a term looks at."""
        names = set(term.get("namespaces") or ())
        selector = term.get("namespaceSelector")
        if selector is not None:
            test = label_test(selector)
            names |= {
                i.name for i in self._store.items(NAMESPACE, None) if test(i.object["metadata"].get("labels") or {})
            }
        return names or ({pod.key[0]} if selector is None else set())

    def matching(
        self, namespaces: Iterable[str], selector: Any, without: frozenset[Key] = frozenset(), *, staying: bool = False
    ) -> list[tuple[str, Key]]:
        """Return (node, key) of every placed pod that a selector selects, with those only assumed.

        ``staying``: without those on their way out.
        """
        out: dict[Key, str] = {}
        for namespace in namespaces:
            for obj in self._selected(namespace, selector):
                node = (obj.get("spec") or {}).get("nodeName")
                leaves = staying and obj["metadata"].get("deletionTimestamp")
                if node and not leaves and (obj.get("status") or {}).get("phase") not in ("Failed", "Succeeded"):
                    out[namespace, obj["metadata"]["name"]] = node
            test = label_test(selector)
            for key, pod in self._nodes.assumed.items():
                if key[0] == namespace and test(pod.labels):
                    out[key] = pod.node
        return [(node, key) for key, node in out.items() if key not in without]

    def _pairs(self, term: Json, pod: Pod, without: frozenset[Key]) -> set[Pair]:
        key = str(term.get("topologyKey"))
        found = self.matching(self.namespaces(term, pod), term.get("labelSelector"), without)
        shapes = {node: self._nodes.shape(node) for node, _ in found}
        return {(key, s.labels[key]) for s in shapes.values() if s is not None and key in s.labels}

    def rules(self, pod: Pod, without: frozenset[Key] = frozenset()) -> Callable[[Shape], str]:
        """Return the verdict by affinity and anti-affinity; ``without`` are pods thought away (preemption)."""
        refused = self._refused(pod, without)
        away = [p for term in pod.anti for p in self._pairs(term, pod, without)]
        near = []
        for term in (pod.terms.get("podAffinity") or {}).get(REQUIRED) or ():
            pairs = self._pairs(term, pod, without)
            # the first pod of a group that wants to be near itself may go anywhere with the label
            first = (
                not pairs
                and pod.key[0] in self.namespaces(term, pod)
                and label_test(term.get("labelSelector"))(pod.labels)
            )
            near.append((str(term.get("topologyKey")), None if first else pairs))
        blocked = set(away)

        def verdict(shape: Shape) -> str:
            if any(shape.labels.get(key) == value for key, value in refused):
                return REFUSED
            if any(shape.labels.get(key) == value for key, value in blocked):
                return ANTI
            for key, pairs in near:
                if key not in shape.labels or (pairs is not None and (key, shape.labels[key]) not in pairs):
                    return AFFINITY
            return ""

        return verdict

    def _refused(self, pod: Pod, without: frozenset[Key]) -> set[Pair]:
        """Return where a placed pod's anti-affinity forbids this one."""
        out: set[Pair] = set()
        for key, other in self._nodes.strict.items():
            shape = self._nodes.shape(other.node)
            if key in without or shape is None or key == pod.key:
                continue
            for term in other.anti:
                topology = str(term.get("topologyKey"))
                seen = topology in shape.labels and pod.key[0] in self.namespaces(term, other)
                if seen and label_test(term.get("labelSelector"))(pod.labels):
                    out.add((topology, shape.labels[topology]))
        return out

    def spreading(self, pod: Pod, without: frozenset[Key] = frozenset()) -> Callable[[Shape], str]:
        """Return the verdict by the constraints that must hold."""
        hard = [c for c in constraints(pod) if c.get("whenUnsatisfiable") == "DoNotSchedule"]
        if not hard:
            return lambda _: ""
        counted = [(c, *self.counts(pod, c, without)) for c in hard]

        def verdict(shape: Shape) -> str:
            for constraint, counts, itself in counted:
                key = constraint["topologyKey"]
                if key not in shape.labels:
                    return SPREAD_LABEL
                few = constraint.get("minDomains") is not None and len(counts) < constraint["minDomains"]
                least = 0 if few else min(counts.values(), default=0)
                if counts.get(shape.labels[key], 0) + itself - least > constraint["maxSkew"]:
                    return SPREAD
            return ""

        return verdict

    def counts(self, pod: Pod, constraint: Json, without: frozenset[Key] = frozenset()) -> tuple[dict[str, int], int]:
        """Return (pods by domain over the nodes that count, 1 if this pod counts itself)."""
        key, selector = constraint["topologyKey"], _selector(pod, constraint)
        wants = wants_node(pod.spec) if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" else None
        honest = constraint.get("nodeTaintsPolicy") == "Honor"
        tolerations = pod.spec.get("tolerations") or []
        counts: dict[str, int] = {}
        taking: dict[str, str] = {}
        for name, node in self._nodes.by_name.items():
            shape = node.shape
            if key not in shape.labels or (wants is not None and not wants(shape)):
                continue
            if honest and any(
                t.get("effect") != "PreferNoSchedule" and not tolerates(tolerations, t) for t in shape.taints
            ):
                continue
            taking[name] = shape.labels[key]
            counts.setdefault(shape.labels[key], 0)
        for name, held in self.matching([pod.key[0]], selector, without, staying=True):
            if name in taking and held != pod.key:
                counts[taking[name]] += 1
        return counts, int(label_test(selector)(pod.labels))


def constraints(pod: Pod) -> list[Json]:
    return pod.spec.get("topologySpreadConstraints") or []


def _selector(pod: Pod, constraint: Json) -> Json:
    """Return the constraint's selector with the pod's own values of ``matchLabelKeys``."""
    selector: Mapping[str, Any] = constraint.get("labelSelector") or {}
    own = {k: pod.labels[k] for k in constraint.get("matchLabelKeys") or () if k in pod.labels}
    return {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), **own}}

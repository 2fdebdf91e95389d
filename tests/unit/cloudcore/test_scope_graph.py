"""The graph of who holds what, against reachability computed anew after each step (HUB-1)."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cloudcore.hub.scope_graph import EVERY, Edge, Graph, root

NODES = ("gw-1", "gw-2")
LAYERS = ([root(n) for n in NODES] + [EVERY], ["a/1", "a/2", "@set"], ["b/1", "b/2"], ["c/1"])
EDGES = [(x, y) for i, above in enumerate(LAYERS) for below in LAYERS[i + 1 :] for x in above for y in below]


class Ledger:
    def __init__(self) -> None:
        self.held: set[Edge] = set()
        self.graph = Graph(lambda n, k: self.held.add((n, k)), lambda n, k: self.held.remove((n, k)))


def reached(start: str, edges: Counter[Edge]) -> set[str]:
    found, todo = set(), [start]
    while todo:
        here = todo.pop()
        for (above, below), count in edges.items():
            if count and above == here and below not in found:
                found.add(below)
                todo.append(below)
    return {each for each in found if not each.startswith("@")}


@given(st.lists(st.tuples(st.sampled_from(EDGES), st.booleans()), max_size=60), st.integers(0, 60))
def test_a_node_holds_exactly_what_it_can_reach_whatever_came_and_went(
    steps: list[tuple[Edge, bool]], admitted_at: int
) -> None:
    ledger, edges = Ledger(), Counter[Edge]()
    ledger.graph.admit("gw-1")
    for number, (edge, add) in enumerate(steps):
        if number == admitted_at:
            ledger.graph.admit("gw-2")
        if add:
            edges[edge] += 1
            ledger.graph.link(edge)
        elif edges[edge]:
            edges[edge] -= 1
            ledger.graph.unlink(edge)
    ledger.graph.admit("gw-2")

    for node, start in [*((n, root(n)) for n in NODES), (EVERY, EVERY)]:
        assert {key for holder, key in ledger.held if holder == node} == reached(start, edges)
        assert all(ledger.graph.holds(node, key) for key in reached(start, edges))


def test_a_node_that_nobody_admitted_holds_nothing() -> None:
    ledger = Ledger()

    ledger.graph.link((root("rack-1"), "core/pods/shop/web"))

    assert ledger.held == set()
    assert not ledger.graph.holds("rack-1", "core/pods/shop/web")

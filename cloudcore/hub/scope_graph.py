"""Which node holds what, as reachability in a graph that is kept incrementally (pure).

A vertex is an object's key, or a name that begins with "@" and stands for a set of objects, such as ``@space/shop``. An
edge says: who holds the first holds the second. Edges come from objects, whether or not both ends exist yet. The graph has
no circles, so counting the ways by which a node reaches a vertex is exact, and a change costs what it affects.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

EVERY = "@every"  # held by every node
Edge = tuple[str, str]
Told = Callable[[str, str], None]


def root(node: str) -> str:
    """Return the vertex whose successors ``node`` holds."""
    return f"@node/{node}"


class Graph:
    """``entered`` and ``left`` are called with (node, key); ``node`` is ``EVERY`` for what all nodes hold."""

    def __init__(self, entered: Told, left: Told) -> None:
        self._entered, self._left = entered, left
        self._next: dict[str, dict[str, int]] = defaultdict(dict)  # vertex -> successor -> number of edges
        self._holders: dict[str, dict[str, int]] = {}  # vertex -> node -> number of ways
        self._held: dict[str, set[str]] = defaultdict(set)  # node -> keys of objects
        self._admitted = {EVERY}

    def admit(self, node: str) -> None:
        """Follow the edges of ``node`` from now on: those of a cluster's other nodes are nobody's business."""
        if node not in self._admitted:
            self._admitted.add(node)
            for below in list(self._next.get(root(node), ())):
                self._retain(node, below)

    def link(self, edge: Edge) -> None:
        """Add an edge; two objects may say the same."""
        above, below = edge
        self._next[above][below] = edges = self._next[above].get(below, 0) + 1
        if edges > 1:
            return
        for node in self._nodes_at(above):
            self._retain(node, below)

    def unlink(self, edge: Edge) -> None:
        """Remove an edge that was added."""
        above, below = edge
        self._next[above][below] -= 1
        if self._next[above][below]:
            return
        del self._next[above][below]
        if not self._next[above]:
            del self._next[above]
        for node in self._nodes_at(above):
            self._release(node, below)

    def holders(self, key: str) -> Mapping[str, int]:
        """Return node -> ways of everyone who holds ``key``; EVERY may be among them."""
        return self._holders.get(key, {})

    def held(self, node: str) -> Iterator[str]:
        """Yield the keys that ``node`` holds, whether their objects exist or not; a key may come twice."""
        yield from self._held.get(node, ())
        yield from self._held.get(EVERY, ())

    def holds(self, node: str, key: str) -> bool:
        found = self._holders.get(key, {})
        return node in found or EVERY in found

    def nodes(self) -> set[str]:
        """Return every node that was admitted."""
        return self._admitted - {EVERY}

    def _nodes_at(self, vertex: str) -> list[str]:
        if vertex.startswith("@node/"):
            node = vertex.removeprefix("@node/")
            return [node] if node in self._admitted else []
        return [EVERY] if vertex == EVERY else list(self._holders.get(vertex, ()))

    def _retain(self, node: str, vertex: str) -> None:
        ways = self._holders.setdefault(vertex, {})
        ways[node] = ways.get(node, 0) + 1
        if ways[node] > 1:
            return
        if not vertex.startswith("@"):
            self._held[node].add(vertex)
            self._entered(node, vertex)
        for below in list(self._next.get(vertex, ())):
            self._retain(node, below)

    def _release(self, node: str, vertex: str) -> None:
        ways = self._holders[vertex]
        ways[node] -= 1
        if ways[node]:
            return
        del ways[node]
        if not ways:
            del self._holders[vertex]
        if not vertex.startswith("@"):
            self._held[node].discard(vertex)
            if not self._held[node]:
                del self._held[node]
            self._left(node, vertex)
        for below in list(self._next.get(vertex, ())):
            self._release(node, below)

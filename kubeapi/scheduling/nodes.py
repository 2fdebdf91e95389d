"""Every node and what runs there, kept by the store's events, with what was decided but is not stored yet."""

from collections.abc import Callable
from typing import Any

from kubeapi.kinds import NODE, POD
from kubeapi.scheduling.facts import FINISHED, Key, Node, Pod, Shape, read_pod, read_room, read_shape, same_shape
from kubeapi.store import Store
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]


class Nodes:
    """The cache. ``on_room`` is called when there may be room for pods that found none."""

    def __init__(self, store: Store, on_room: Callable[[], None] = lambda: None) -> None:
        self._store, self._on_room = store, on_room
        self.by_name: dict[str, Node] = {}
        self.strict: dict[Key, Pod] = {}  # placed pods with required anti-affinity: they refuse others
        self.choosy: dict[Key, Pod] = {}  # placed pods with any rule about other pods
        self.assumed: dict[Key, Pod] = {}  # decided, not yet stored
        self._homeless: dict[str, dict[Key, Pod]] = {}  # pods of nodes that do not exist (yet)

    def start(self) -> None:
        for item in self._store.items(NODE, None):
            self._put_node(item.object)
        for item in self._store.items(POD, None):
            if (item.object.get("spec") or {}).get("nodeName"):
                self._pod_event(None, item.object)
        self._store.listen(NODE, self._node_changed)
        self._store.listen(POD, self._pod_changed)

    # nodes

    def _node_changed(self, event: Event) -> None:
        if event.type == DELETED:
            gone = self.by_name.pop(event.stored.name, None)
            if gone is not None and gone.pods:
                self._homeless[event.stored.name] = gone.pods
        elif self._put_node(event.object):
            self._on_room()

    def _put_node(self, obj: Json) -> bool:
        """Take a Node in; returns whether anything that matters changed."""
        shape, (allocatable, most_pods) = read_shape(obj), read_room(obj)
        held = self.by_name.get(shape.name)
        if held is None:
            node = self.by_name[shape.name] = Node(shape, allocatable, most_pods)
            for pod in self._homeless.pop(shape.name, {}).values():
                node.add(pod)
            return True
        changed = not same_shape(held.shape, shape)
        if changed:
            held.shape = shape
        if (held.allocatable, held.most_pods) != (allocatable, most_pods):
            held.allocatable, held.most_pods = allocatable, most_pods
            changed = True
        return changed

    def shape(self, name: str) -> Shape | None:
        node = self.by_name.get(name)
        return None if node is None else node.shape

    # pods

    def _pod_changed(self, event: Event) -> None:
        self._pod_event(event.previous, None if event.type == DELETED else event.object)

    def _pod_event(self, old: Json | None, new: Json | None) -> None:
        before, after = _placed(old), _placed(new)
        if before and after and old is not None and new is not None and _same(old, new):
            return
        if old is not None and before:
            self._take(before, (old["metadata"].get("namespace", ""), old["metadata"]["name"]))
            if not after:
                self._on_room()
        if new is not None and after:
            pod = read_pod(new)
            assumed = self.assumed.pop(pod.key, None)
            if assumed is not None:
                self._take(assumed.node, pod.key)
            self._place(pod)
            if before and pod.deleting:
                self._on_room()  # it takes its room still, and does not count for spreading any more

    def _place(self, pod: Pod) -> None:
        node = self.by_name.get(pod.node)
        if node is None:
            self._homeless.setdefault(pod.node, {})[pod.key] = pod
        else:
            node.add(pod)
        if pod.terms:
            self.choosy[pod.key] = pod
            if pod.anti:
                self.strict[pod.key] = pod

    def _take(self, name: str, key: Key) -> None:
        node = self.by_name.get(name)
        if node is not None:
            node.remove(key)
        held = self._homeless.get(name)
        if held is not None:
            held.pop(key, None)
            if not held:
                del self._homeless[name]
        self.choosy.pop(key, None)
        self.strict.pop(key, None)

    def assume(self, pod: Pod, name: str) -> None:
        """Count the pod on a node from now on."""
        pod.node = name
        self.assumed[pod.key] = pod
        self._place(pod)

    def forget(self, pod: Pod) -> None:
        """Take back what was assumed and could not be stored."""
        if self.assumed.get(pod.key) is pod:
            del self.assumed[pod.key]
            self._take(pod.node, pod.key)
            pod.node = ""


def _placed(obj: Json | None) -> str:
    """Return the node that a pod takes room on, "" for none: a finished pod takes none."""
    if obj is None or (obj.get("status") or {}).get("phase") in FINISHED:
        return ""
    return (obj.get("spec") or {}).get("nodeName") or ""


def _same(old: Json, new: Json) -> bool:
    """Whether nothing changed that scheduling looks at (most changes are of status)."""
    marked = "deletionTimestamp"
    return (
        old["metadata"].get("labels") == new["metadata"].get("labels")
        and (marked in old["metadata"]) == (marked in new["metadata"])
        and (old["spec"] is new["spec"] or old["spec"] == new["spec"])
    )

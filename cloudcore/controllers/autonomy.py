"""Pods of edge nodes stay when their node is silent. Reads Pod and Node; writes ``Pod.spec.tolerations``, of an API server that is not ours.

A cluster taints a node that it cannot see and evicts its pods after five minutes, as if they were gone. At the edge they
run on. So their tolerations of those taints have no end, or the one that the node's autonomy annotation gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cloudcore.controllers.nodes import is_edge
from cloudcore.controllers.queue import KeyQueue
from cloudcore.durations import parse_s
from cloudcore.hub.scope_pods import is_finished, pod_node
from cloudcore.kube.client import JSON_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DAEMON_SET, POD
from proto.kit.errors import UsageError
from proto.kit.log import Logger
from proto.labels import AUTONOMY_DURATION

TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
EFFECT = "NoExecute"
WORKERS = 4
log = Logger("autonomy")
Json = Mapping[str, Any]


class Autonomy:
    """Gives pods of edge nodes the tolerations that keep them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods_of: dict[str, set[Name]] = {}
        self._told: set[str] = set()  # annotations that say nothing, said once each
        self.queue: KeyQueue[Name] = KeyQueue(
            "autonomy", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        cluster.pods.listen(self._on_pod)
        cluster.nodes.listen(self._on_node)

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self.queue.run()

    def _on_pod(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        was, now = pod_node(old), pod_node(new)
        if was and was != now:
            self._pods_of.get(was, set()).discard(name)
        if not now or new is None:
            return
        self._pods_of.setdefault(now, set()).add(name)
        if old is None or was != now or _tolerations(old) != _tolerations(new):
            self.queue.add(name)

    def _on_node(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is None:
            self._pods_of.pop(name.name, None)
        elif old is None or _says(old) != _says(new):
            for pod in self._pods_of.get(name.name, ()):
                self.queue.add(pod)

    async def _reconcile(self, name: Name) -> None:
        pod = self._cluster.pods.objects.get(name)
        node = self._cluster.nodes.get("", pod_node(pod)) if pod is not None else None
        if pod is None or node is None or not is_edge(node) or is_finished(pod) or _is_kept_anyway(pod):
            return
        before = _tolerations(pod)
        wanted = tolerations(before, self._seconds(node))
        if wanted == before:
            return
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": pod["metadata"]["uid"]},
            {"op": "test", "path": "/metadata/resourceVersion", "value": pod["metadata"]["resourceVersion"]},
            {"op": "add", "path": "/spec/tolerations", "value": wanted},
        ]
        try:
            await self._cluster.client.patch(POD, *name, patch, content_type=JSON_PATCH)
        except NotFound:
            return
        except ApiRefused as error:
            if error.status not in (409, 422):  # changed meanwhile: the informer brings it, and we look again
                raise
            log.debug("a pod changed meanwhile", namespace=name.namespace, name=name.name)

    def _seconds(self, node: Json) -> int | None:
        text = _annotation(node).strip()
        try:
            return autonomy_s(text)
        except UsageError:
            if text not in self._told:
                self._told.add(text)
                log.warning("an autonomy duration that is none", node=node["metadata"]["name"], text=text[:100])
            return None


def autonomy_s(text: str) -> int | None:
    """Return how long pods are left alone, None: for ever ("" and "0"). Raises UsageError."""
    found = parse_s(text, AUTONOMY_DURATION) if text not in ("", "0") else 0.0
    return max(1, int(found)) if found > 0 else None


def tolerations(before: Sequence[Json], seconds: int | None) -> list[Json]:
    """Return ``before`` with the two tolerations that keep a pod for ``seconds``, None: for ever (pure).

    A toleration may be given another time and nothing else (pod validation).
    """
    out: list[Json] = []
    for each in before:
        timed = each.get("key") in TAINTS and each.get("effect") == EFFECT
        out.append(_lasting(each, seconds) if timed else each)
    for taint in TAINTS:
        if not any(_tolerates(each, taint) for each in out):
            out.append(_lasting({"key": taint, "operator": "Exists", "effect": EFFECT}, seconds))
    return out


def _lasting(toleration: Json, seconds: int | None) -> Json:
    rest = {k: v for k, v in toleration.items() if k != "tolerationSeconds"}
    return rest if seconds is None else {**rest, "tolerationSeconds": seconds}


def _tolerates(toleration: Json, taint: str) -> bool:
    keys, effects = (taint, None, ""), (EFFECT, None, "")
    return (
        toleration.get("operator") == "Exists" and toleration.get("key") in keys and toleration.get("effect") in effects
    )


def _is_kept_anyway(pod: Json) -> bool:
    """A DaemonSet's pods tolerate both taints for ever, by their controller's word."""
    return any(ref.get("kind") == DAEMON_SET.kind for ref in pod["metadata"].get("ownerReferences") or ())


def _tolerations(pod: Json) -> list[Json]:
    return list((pod.get("spec") or {}).get("tolerations") or ())


def _annotation(node: Json) -> str:
    return str((node["metadata"].get("annotations") or {}).get(AUTONOMY_DURATION) or "")


def _says(node: Json) -> tuple[str, bool]:
    return _annotation(node), is_edge(node)

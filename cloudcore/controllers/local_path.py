"""Volumes of class ``local-path``: made on the node that the scheduler chose, and kept until that node has deleted the data.

Reads Node, PersistentVolume, PersistentVolumeClaim, StorageClass; writes the finalizer ``edge.skerry.io/local-path`` of
PersistentVolumes and, at an API server that is not ours, the volumes themselves.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloudcore.controllers.nodes import is_edge
from cloudcore.controllers.queue import KeyQueue
from cloudcore.kube.client import JSON_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, ApiUnavailable, Conflict, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLAIM, STORAGE_CLASS, VOLUME
from kubeapi.bootstrap import LOCAL_PROVISIONER
from kubeapi.local_volumes import HOSTNAME, LOCAL_PATH, PROVISIONED_BY, volume_for
from kubeapi.scheduling.claims import SELECTED_NODE
from kubeapi.scheduling.facts import read_shape
from kubeapi.scheduling.filters import node_selector
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.link.replica import MessageRow

GONE = "volume-gone"  # message {name, uid} of the node that has deleted the directory
FINALIZER = LOCAL_PATH
ATTEMPTS = 5  # a volume's other writer, its cluster's controller, writes seldom
WORKERS = 2
log = Logger("local-path")
Json = Mapping[str, Any]


class Teller(Protocol):
    """Who raises events (cloudcore.hub.effects)."""

    def tell(self, kind: str, involved: Mapping[str, str], reason: str, message: str, *, name: str) -> None: ...


class LocalPath:
    """``gone`` is what a node says; ``provisions``: nobody else makes the volumes of this class."""

    def __init__(self, cluster: Cluster, teller: Callable[[], Teller], *, provisions: bool) -> None:
        self._cluster, self._teller, self._provisions = cluster, teller, provisions
        self._volumes, self._claims = cluster.of(VOLUME), cluster.of(CLAIM)
        self._deleting: set[Name] = set()
        self.queue: KeyQueue[tuple[str, Name]] = KeyQueue(
            "local-path", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        self._volumes.listen(self._on_volume)
        if provisions:
            self._claims.listen(self._on_claim)
        cluster.nodes.listen(self._on_node)

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self.queue.run()

    async def gone(self, node: str, row: MessageRow, body: Json) -> None:
        """Let a volume go whose data ``node`` has deleted. Raises MalformedMessage, ApiUnavailable, ApiRefused."""
        del row
        name, uid = body.get("name"), body.get("uid")
        if not (isinstance(name, str) and name and isinstance(uid, str) and uid):
            raise MalformedMessage("name or uid is missing")
        if not self._cluster.synced:
            raise ApiUnavailable("the first list of the nodes is not complete yet")
        volume = await self._get(name)
        if volume is None or volume["metadata"]["uid"] != uid or FINALIZER not in _finalizers(volume):
            return  # done before, or another volume has the name by now
        if [node] != self._nodes_of(volume):
            raise MalformedMessage(f"volume {name} is not on this node")
        if not volume["metadata"].get("deletionTimestamp"):
            raise MalformedMessage(f"nobody has asked for the deletion of volume {name}")
        await self._let_go(volume, f"its data on node {node} is deleted")

    def _on_volume(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        self._deleting.discard(name)
        if new is None or LOCAL_PATH not in _annotations(new):
            return
        if new["metadata"].get("deletionTimestamp"):
            self._deleting.add(name)
        self.queue.add((VOLUME.plural, name))

    def _on_claim(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None and _is_waiting(new):
            self.queue.add((CLAIM.plural, name))

    def _on_node(self, _name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is None:
            for volume in self._deleting:
                self.queue.add((VOLUME.plural, volume))

    async def _reconcile(self, key: tuple[str, Name]) -> None:
        plural, name = key
        if plural == CLAIM.plural:
            await self._provision(name)
        else:
            await self._settle(name)

    # volumes

    async def _settle(self, name: Name) -> None:
        volume = self._volumes.objects.get(name)
        if volume is None:
            return
        guarded, keeps = FINALIZER in _finalizers(volume), _policy(volume) != "Delete"
        if volume["metadata"].get("deletionTimestamp"):
            if guarded and keeps:
                await self._let_go(volume, "its policy leaves the data where it is")
            elif guarded and not self._nodes_of(volume):
                await self._let_go(volume, "its node is gone")
        elif not guarded and has_one_place(volume):
            await self._change(volume, lambda held: [*held, FINALIZER])
        elif self._provisions and not keeps and _is_ours(volume) and _phase(volume) == "Released":
            await self._delete(volume)

    def _nodes_of(self, volume: Json) -> list[str]:
        """Return the names of the nodes on which the volume can be."""
        fits = node_selector(((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required"))
        return [name.name for name, node in self._cluster.nodes.objects.items() if fits(read_shape(node))]

    async def _let_go(self, volume: Json, why: str) -> None:
        await self._change(volume, lambda held: [each for each in held if each != FINALIZER])
        log.info("volume let go", volume=volume["metadata"]["name"], reason=why)

    async def _change(self, volume: Json, change: Callable[[list[str]], list[str]]) -> None:
        """Write the finalizers of exactly this volume. Raises ApiUnavailable when others keep changing it."""
        metadata = volume["metadata"]
        for _ in range(ATTEMPTS):
            found = await self._get(metadata["name"], fresh=True)
            if found is None or found["metadata"]["uid"] != metadata["uid"]:
                return
            held = _finalizers(found)
            wanted = change([each for each in held if each != FINALIZER])
            if wanted == held:
                return
            patch = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]},
                {"op": "add", "path": "/metadata/finalizers", "value": wanted},
            ]
            try:
                await self._cluster.client.patch(VOLUME, "", metadata["name"], patch, content_type=JSON_PATCH)
            except NotFound:
                return
            except ApiRefused as error:
                if error.status not in (409, 422):  # changed meanwhile
                    raise
            else:
                return
        raise ApiUnavailable(f"volume {metadata['name']} keeps changing")

    async def _get(self, name: str, *, fresh: bool = False) -> dict[str, Any] | None:
        found = None if fresh else self._volumes.get("", name)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            return found
        try:
            return await self._cluster.client.get(VOLUME, "", name)
        except NotFound:
            return None

    async def _delete(self, volume: Json) -> None:
        """Begin the end of a volume that was made for a claim that is gone."""
        metadata = volume["metadata"]
        try:
            await self._cluster.client.delete(VOLUME, "", metadata["name"], uid=metadata["uid"])
        except (NotFound, Conflict):
            return

    # claims, at an API server that is not ours

    async def _provision(self, name: Name) -> None:
        """Make the volume of a claim for which the scheduler has chosen a node."""
        claim = self._claims.objects.get(name)
        if claim is None or not _is_waiting(claim):
            return
        try:
            found = await self._cluster.client.get(STORAGE_CLASS, "", claim["spec"]["storageClassName"])
        except NotFound:
            return
        if found.get("provisioner") != LOCAL_PROVISIONER:
            return
        chosen = _annotations(claim)[SELECTED_NODE]
        node = self._cluster.nodes.get("", chosen)
        if node is None or not is_edge(node):
            await self._choose_again(claim, chosen)
            return
        volume = volume_for(claim, found, node)
        volume["metadata"]["finalizers"] = [FINALIZER]
        try:
            await self._cluster.client.create(VOLUME, "", volume)
        except Conflict:  # made before; its controller binds the two
            return
        made = volume["metadata"]["name"]
        self._tell(claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {made}")

    async def _choose_again(self, claim: Json, chosen: str) -> None:
        """Let the scheduler choose another node, as provisioners do."""
        self._tell(
            claim, "Warning", "ProvisioningFailed", f"node {chosen} is no edge node: choose one with a nodeSelector"
        )
        metadata = claim["metadata"]
        path = SELECTED_NODE.replace("~", "~0").replace("/", "~1")
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
            {"op": "test", "path": f"/metadata/annotations/{path}", "value": chosen},
            {"op": "remove", "path": f"/metadata/annotations/{path}"},
        ]
        place = metadata["namespace"], metadata["name"]
        try:
            await self._cluster.client.patch(CLAIM, *place, patch, content_type=JSON_PATCH)
        except NotFound:
            return
        except ApiRefused as error:
            if error.status not in (409, 422):  # chosen anew already
                raise

    def _tell(self, claim: Json, kind: str, reason: str, message: str) -> None:
        metadata = claim["metadata"]
        involved = {"apiVersion": CLAIM.api_version, "kind": CLAIM.kind}
        involved |= {key: metadata[key] for key in ("namespace", "name", "uid")}
        name = f"{metadata['name']}.{reason.lower()}-{metadata['uid'][:8]}"
        self._teller().tell(kind, involved, reason, message, name=name)


def has_one_place(volume: Json) -> bool:
    """Whether exactly one machine can have the volume's directory: only then is there one to wait for."""
    terms = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required", {}).get("nodeSelectorTerms") or ()
    named = {"matchExpressions": HOSTNAME, "matchFields": "metadata.name"}
    places = [
        tuple(rule.get("values") or ())
        for term in terms
        for field, key in named.items()
        for rule in term.get(field) or ()
        if rule.get("key") == key and rule.get("operator") == "In"
    ]
    return len(terms) == 1 and bool(places) and all(len(values) == 1 for values in places)


def _is_waiting(claim: Json) -> bool:
    spec, metadata = claim.get("spec") or {}, claim["metadata"]
    waits = not spec.get("volumeName") and not metadata.get("deletionTimestamp")
    return bool(waits and spec.get("storageClassName") and _annotations(claim).get(SELECTED_NODE))


def _annotations(item: Json) -> Mapping[str, str]:
    return item["metadata"].get("annotations") or {}


def _finalizers(volume: Json) -> list[str]:
    return list(volume["metadata"].get("finalizers") or ())


def _policy(volume: Json) -> str:
    return str((volume.get("spec") or {}).get("persistentVolumeReclaimPolicy") or "Retain")


def _phase(volume: Json) -> str:
    return str((volume.get("status") or {}).get("phase") or "")


def _is_ours(volume: Json) -> bool:
    return _annotations(volume).get(PROVISIONED_BY) == LOCAL_PROVISIONER

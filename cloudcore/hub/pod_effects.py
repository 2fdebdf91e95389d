"""What a node asks of the API about its own pods: a deletion finished there, a mirror of a static pod."""

from collections.abc import Iterator, Mapping
from typing import Any

from cloudcore.hub.scope_pods import is_mirror, needs, pod_node
from cloudcore.kube.client import KubeClient
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import Conflict, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import NODE, POD, SERVICE_ACCOUNT
from proto.kit.errors import MalformedMessage
from proto.labels import MIRROR
from proto.labels import NODE as NODE_LABEL
from proto.link.replica import MessageRow

GONE, MIRRORED = "pod-gone", "pod-mirror"
KEPT_METADATA = ("name", "namespace", "labels", "annotations")
MAX_MIRROR_BYTES = 256 << 10


class PodEffects:
    """Carries them out; doing one again changes nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client: KubeClient = cluster.client

    async def gone(self, node: str, row: MessageRow, body: Mapping[str, Any]) -> None:
        """Delete a pod that has ended on ``node``. Raises MalformedMessage, ApiUnavailable, ApiRefused."""
        del row
        namespace, name, uid = (_text(body, key) for key in ("namespace", "name", "uid"))
        pod = await self._pod(Name(namespace, name))
        if pod is None or pod["metadata"]["uid"] != uid:
            return  # done before, or another pod has the name by now
        if pod_node(pod) != node:
            raise MalformedMessage(f"pod {namespace}/{name} is not on this node")
        if not pod["metadata"].get("deletionTimestamp") and not is_mirror(pod):
            raise MalformedMessage(f"nobody has asked for the deletion of pod {namespace}/{name}")
        await self._end(Name(namespace, name), uid)

    async def mirror(self, node: str, row: MessageRow, body: Mapping[str, Any]) -> None:
        """Show a static pod of ``node`` in the API. Raises MalformedMessage, ApiUnavailable, ApiRefused."""
        if len(row.body) > MAX_MIRROR_BYTES:
            raise MalformedMessage("a mirror pod is too large")
        wanted = mirror_of(node, body.get("pod"), self._cluster.nodes.get("", node))
        name = Name(wanted["metadata"]["namespace"], wanted["metadata"]["name"])
        found = await self._pod(name)
        if found is not None and not self._replaces(found, wanted, node):
            return
        if found is not None:
            await self._end(name, found["metadata"]["uid"])
        try:
            await self._client.create(POD, name.namespace, wanted)
        except Conflict:  # made a moment ago, before the informer saw it
            return

    @staticmethod
    def _replaces(found: Mapping[str, Any], wanted: Mapping[str, Any], node: str) -> bool:
        """Whether the mirror in the API is of an older file. Raises MalformedMessage when it is no mirror of this node."""
        name = wanted["metadata"]["name"]
        if not is_mirror(found) or pod_node(found) != node:
            raise MalformedMessage(f"pod {name} exists and is no mirror of this node")
        return bool(found["metadata"]["annotations"][MIRROR] != wanted["metadata"]["annotations"][MIRROR])

    async def _pod(self, name: Name) -> dict[str, Any] | None:
        found = self._cluster.pods.objects.get(name)
        if found is not None:
            return found
        try:
            return await self._client.get(POD, *name)
        except NotFound:
            return None

    async def _end(self, name: Name, uid: str) -> None:
        try:
            await self._client.delete(POD, *name, uid=uid, grace_s=0)
        except (NotFound, Conflict):
            return


def mirror_of(node: str, pod: Any, owner: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the mirror pod as we let a node make it (NodeRestriction's rules). Raises MalformedMessage."""
    if not isinstance(pod, dict) or not isinstance(pod.get("metadata"), dict) or not isinstance(pod.get("spec"), dict):
        raise MalformedMessage("a mirror is no pod")
    metadata = {k: pod["metadata"][k] for k in KEPT_METADATA if k in pod["metadata"]}
    if not (metadata.get("name") and metadata.get("namespace")) or not isinstance(metadata.get("annotations"), dict):
        raise MalformedMessage("a mirror pod has a name, a namespace and annotations")
    if not metadata["annotations"].get(MIRROR) or pod["spec"].get("nodeName") != node:
        raise MalformedMessage("a node makes mirror pods of its own static pods only")
    account = SERVICE_ACCOUNT.key(metadata["namespace"], "default")
    try:
        if (metadata.get("labels") or {}).get(NODE_LABEL, node) != node:
            raise MalformedMessage(f"a mirror pod of node {node} is labelled with another one")
        referred = [key for key in needs(metadata["namespace"], pod["spec"]) if key != account]
        referred += _made_in_the_cloud(pod["spec"])
    except (AttributeError, TypeError) as error:
        raise MalformedMessage("a mirror is no pod") from error
    if referred or pod["spec"].get("serviceAccountName"):
        raise MalformedMessage(f"a mirror pod refers to nothing of the API, this one to {', '.join(referred)[:200]}")
    if owner is not None:  # it goes when the Node goes
        ref = {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": node, "uid": owner["metadata"]["uid"]}
        metadata["ownerReferences"] = [{**ref, "controller": True}]
    return {"apiVersion": POD.api_version, "kind": POD.kind, "metadata": metadata, "spec": pod["spec"]}


def _made_in_the_cloud(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a cluster's controllers would make for such a pod: nothing that a node may ask for."""
    if spec.get("resourceClaims"):
        yield "resourceClaims"
    for volume in spec.get("volumes") or ():
        if "ephemeral" in volume:
            yield f"ephemeral volume {volume.get('name')}"
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from (kind for kind in ("serviceAccountToken", "clusterTrustBundle") if kind in source)


def _text(body: Mapping[str, Any], key: str) -> str:
    found = body.get(key)
    if not isinstance(found, str) or not found:
        raise MalformedMessage(f"{key} is missing")
    return found

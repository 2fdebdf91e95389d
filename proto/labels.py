"""Labels and annotations that both ends of the link give a meaning to."""

from collections.abc import Mapping
from typing import Any

NODE = "edge.skerry.io/node"  # label: the object also belongs on this node (set on what was written at the node)
SYNC = "edge.skerry.io/sync"  # label of a CRD, value "all": its objects go to every node
PENDING = "edge.skerry.io/pending-write"  # annotation, at the node only: number of the newest write the cloud has not confirmed
AUTONOMY_DURATION = (
    "node.openyurt.io/autonomy-duration"  # annotation of a Node: how long its pods are left alone; "0": for ever
)
MIRROR = "kubernetes.io/config.mirror"  # annotation of a mirror pod: digest of its static pod
SOURCE = "kubernetes.io/config.source"  # annotation: "file" for a static pod
EDGE_ROLE = "node-role.kubernetes.io/edge"
CLOUD_UID = (
    "edge.skerry.io/cloud-uid"  # annotation, at the node only: uid in the cloud of a pod that was created at the node
)


def cloud_uid(metadata: Mapping[str, Any]) -> str:
    """Return the uid by which the cloud knows the object: a pod that was created here keeps the uid it began with."""
    return str((metadata.get("annotations") or {}).get(CLOUD_UID) or metadata.get("uid") or "")

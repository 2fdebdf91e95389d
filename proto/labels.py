"""Labels and annotations that both ends of the link give a meaning to."""

from collections.abc import Mapping
from typing import Any

NODE = "edge.skerry.io/node"  # label: the object also belongs on this node (set on what was written at the node)
SYNC = "edge.skerry.io/sync"  # label of a CRD; "all": its objects go to every node, "labelled": each to the node that NODE names
PENDING = "edge.skerry.io/pending-write"  # annotation, at the node only: number of the newest write the cloud has not confirmed
AUTONOMY_DURATION = (
    "node.openyurt.io/autonomy-duration"  # annotation of a Node: how long its pods are left alone; "0": for ever
)
MIRROR = "kubernetes.io/config.mirror"  # annotation of a mirror pod: digest of its static pod
SOURCE = "kubernetes.io/config.source"  # annotation: "file" for a static pod
EDGE_ROLE = "node-role.kubernetes.io/edge"
# annotation, at the node only, of a pod that was created there: its uid in the cloud; "": it has none yet
CLOUD_UID = "edge.skerry.io/cloud-uid"


def cloud_uid(metadata: Mapping[str, Any]) -> str:
    """Return the uid by which the cloud knows the object, "" while it does not.

    A pod that was created at a node keeps the uid that it began with there.
    """
    annotations = metadata.get("annotations") or {}
    return str(annotations[CLOUD_UID] if CLOUD_UID in annotations else metadata.get("uid") or "")

"""Labels and annotations that both ends of the link give a meaning to."""

from collections.abc import Mapping
from typing import Any

NODE = "edge.skerry.io/node"  # label: the object also belongs on this node (set on what was written at the node)
SYNC = "edge.skerry.io/sync"  # label of a CRD; "all": its objects go to every node, "labelled": each to the node that NODE names
INTERNAL_IP = "edge.skerry.io/internal-ip"  # annotation of a Node whose status names cloudcore only: its own address
PENDING = "edge.skerry.io/pending-write"  # annotation, at the node only: number of the newest write the cloud has not confirmed
AUTONOMY_DURATION = (
    "node.openyurt.io/autonomy-duration"  # annotation of a Node: how long its pods are left alone; "0": for ever
)
MIRROR = "kubernetes.io/config.mirror"  # annotation of a mirror pod: digest of its static pod
SOURCE = "kubernetes.io/config.source"  # annotation: "file" for a static pod
EDGE_ROLE = "node-role.kubernetes.io/edge"
# annotation, at the node only, of a pod that was created there: its uid in the cloud; "": it has none yet
CLOUD_UID = "edge.skerry.io/cloud-uid"
# annotations, at the node only, of what it does while the cloud is away (edgecore/localapi/continuation.py)
CONTINUED = "edge.skerry.io/continued"  # of a Job that began at the node, and of its pods; its value is the Job's name
ANSWERS = "edge.skerry.io/answers"  # of such a pod: uid of the cloud's pod that gets its status
ANSWERED_BY = "edge.skerry.io/answered-by"  # of the cloud's pod: the pod that ran in its place; it is not run again

# What a node may say of itself among the labels that Kubernetes gives a meaning to (NodeRestriction's list).
OF_KUBELETS = frozenset(
    {
        EDGE_ROLE,
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
KUBELET_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
OTHERS_DOMAINS = ("kubernetes.io", "k8s.io", "apps.kubeedge.io", "edge.skerry.io")


def may_say_of_itself(label: str) -> bool:
    """Whether a node may set this label of its Node: others say where workloads, with their Secrets, are to go."""
    domain = label.rpartition("/")[0]
    within = {each for each in (*KUBELET_DOMAINS, *OTHERS_DOMAINS) if domain == each or domain.endswith(f".{each}")}
    return label in OF_KUBELETS or not within or not within.isdisjoint(KUBELET_DOMAINS)


def cloud_uid(metadata: Mapping[str, Any]) -> str:
    """Return the uid by which the cloud knows the object, "" while it does not.

    A pod that was created at a node keeps the uid that it began with there.
    """
    annotations = metadata.get("annotations") or {}
    return str(annotations[CLOUD_UID] if CLOUD_UID in annotations else metadata.get("uid") or "")

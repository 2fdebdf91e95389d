"""What we write on sandboxes and containers, so that a new process finds everything again (POD-1, POD-2)."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from proto.kit import canonical

Json = dict[str, Any]

# labels, kubelet's names where it has one
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
MANAGED_BY = "edge.skerry.io/managed-by"  # value: the node; what does not carry it is never touched

# annotations
SPEC_HASH = "skerry.spec-hash"
IMAGE = "skerry.image"  # as the pod says it
RESTARTS = "io.kubernetes.container.restartCount"
GRACE_S = "io.kubernetes.pod.terminationGracePeriod"
TERMINATION_LOG = "skerry.termination-log"  # path on the host
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"


def spec_hash(container: Mapping[str, Any]) -> str:
    """Digest of what makes a running container another one: its name and image, all that the API lets anyone change.

    Not the whole spec: a newer API server that fills in one more default must restart nothing.
    """
    return sha256(canonical.encode([container["name"], container.get("image", "")])).hexdigest()[:16]


def pod_labels(pod: Mapping[str, Any], node: str) -> dict[str, str]:
    """Labels of the pod's sandbox; what the pod says of itself comes along, as with kubelet."""
    metadata = pod["metadata"]
    return {
        **(metadata.get("labels") or {}),
        POD_NAME: metadata["name"],
        POD_NAMESPACE: metadata.get("namespace", ""),
        POD_UID: metadata.get("uid", ""),
        MANAGED_BY: node,
    }


def container_labels(pod: Mapping[str, Any], container: Mapping[str, Any], node: str) -> dict[str, str]:
    labels = pod_labels({"metadata": {**pod["metadata"], "labels": {}}}, node)
    return {**labels, CONTAINER_NAME: container["name"]}


def container_annotations(
    pod: Mapping[str, Any], container: Mapping[str, Any], attempt: int, termination_log: str
) -> dict[str, str]:
    return {
        SPEC_HASH: spec_hash(container),
        IMAGE: container.get("image", ""),
        RESTARTS: str(attempt),
        GRACE_S: str(pod["spec"].get("terminationGracePeriodSeconds", 30)),
        TERMINATION_LOG: termination_log,
        TERMINATION_POLICY: container.get("terminationMessagePolicy", "File"),
    }

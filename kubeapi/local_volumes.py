"""Volumes of class ``local-path``: a directory of one node, for one claim (pure)."""

from typing import Any

from kubeapi.bootstrap import LOCAL_PROVISIONER

Json = dict[str, Any]
LOCAL_PATH = "edge.skerry.io/local-path"  # annotation of a volume: its directory's name below the node's own folder
FOLDER = "/var/lib/skerry/edge/local-path"  # where nodes that run as root keep them; the node's settings decide
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
HOSTNAME = "kubernetes.io/hostname"


def volume_for(claim: Json, storage_class: Json, node: Json) -> Json:
    """Return the PersistentVolume to make for ``claim`` on ``node``; the same claim always gets the same name."""
    name = f"pvc-{claim['metadata']['uid']}"
    hostname = (node["metadata"].get("labels") or {}).get(HOSTNAME)
    match: Json = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [hostname]}]}
    if not hostname:
        named = {"key": "metadata.name", "operator": "In", "values": [node["metadata"]["name"]]}
        match = {"matchFields": [named]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: LOCAL_PROVISIONER, LOCAL_PATH: name}},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
            "storageClassName": storage_class["metadata"]["name"],
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
            "local": {"path": f"{FOLDER}/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [match]}},
            "claimRef": claim_reference(claim),
        },
    }


def claim_reference(claim: Json) -> Json:
    """Return what a volume says of the claim that it is for."""
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }

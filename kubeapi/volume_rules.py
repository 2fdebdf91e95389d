"""What is wrong with a pod's volumes, with claims and with persistent volumes."""

from collections.abc import Callable
from typing import Any

from kubeapi import causes as say
from kubeapi.causes import Causes, bad, duplicate, forbid, one_of, required
from kubeapi.container_rules import amounts_causes, relative
from kubeapi.quantities import BadQuantity, of

Json = dict[str, Any]
MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
HOST_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
PROJECTED = ("clusterTrustBundle", "configMap", "downwardAPI", "secret", "serviceAccountToken")
MIN_TOKEN_S = 600


def volume_causes(volumes: list[Json], path: str) -> tuple[Causes, dict[str, Json]]:
    """Return what is wrong with a pod's volumes, and the volumes by name."""
    out: Causes = []
    found: dict[str, Json] = {}
    for i, volume in enumerate(volumes):
        where, name = f"{path}[{i}]", volume.get("name") or ""
        out += say.dns_label(f"{where}.name", name)
        if name in found:
            out.append(duplicate(f"{where}.name", name))
        found[name] = volume
        sources = [key for key, value in volume.items() if key != "name" and value is not None]
        if not sources:
            out.append(required(where, "must specify a volume type"))
        out += [forbid(f"{where}.{key}", "may not specify more than 1 volume type") for key in sources[1:]]
        for key in sources[:1]:
            out += _source(key, volume[key], f"{where}.{key}")
    return out, found


def _source(kind: str, about: Json, path: str) -> Causes:
    check = SOURCES.get(kind)
    return [] if check is None else check(about, path)


def _host_path(about: Json, path: str) -> Causes:
    at = about.get("path") or ""
    out = [] if at else [required(f"{path}.path")]
    if ".." in at.split("/"):
        out.append(bad(f"{path}.path", at, "must not contain '..'"))
    return out + one_of(f"{path}.type", about.get("type"), HOST_TYPES)


def _named(key: str) -> Callable[[Json, str], Causes]:
    return lambda about, path: ([] if about.get(key) else [required(f"{path}.{key}")]) + _files(about, path)


def _size(about: Json, path: str) -> Causes:
    if about.get("sizeLimit") is None:
        return []
    try:
        low = of(about["sizeLimit"]) < 0
    except BadQuantity:
        return [bad(f"{path}.sizeLimit", about["sizeLimit"], "must be a quantity, such as 64Mi")]
    return [forbid(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")] if low else []


def _files(about: Json, path: str) -> Causes:
    out = say.within(f"{path}.defaultMode", about.get("defaultMode"), 0, 0o777)
    for i, item in enumerate(about.get("items") or ()):
        where = f"{path}.items[{i}]"
        if "key" in item and not item["key"]:
            out.append(required(f"{where}.key"))
        if not item.get("path"):
            out.append(required(f"{where}.path"))
        else:
            out += relative(f"{where}.path", item["path"])
        out += say.within(f"{where}.mode", item.get("mode"), 0, 0o777)
    return out


def _projected(about: Json, path: str) -> Causes:
    out: Causes = []
    for i, source in enumerate(about.get("sources") or ()):
        where = f"{path}.sources[{i}]"
        given = [key for key in PROJECTED if source.get(key) is not None]
        if not given:
            out.append(required(where, "must specify one of: " + ", ".join(PROJECTED)))
        out += [forbid(f"{where}.{key}", "may not specify more than 1 volume type") for key in given[1:]]
        token = source.get("serviceAccountToken")
        if token is not None:
            out += [] if token.get("path") else [required(f"{where}.serviceAccountToken.path")]
            lasting = token.get("expirationSeconds")
            if lasting is not None and lasting < MIN_TOKEN_S:
                text = "may not specify a duration less than 10 minutes"
                out.append(bad(f"{where}.serviceAccountToken.expirationSeconds", lasting, text))
        for key in ("configMap", "secret"):
            if source.get(key) is not None:
                out += [] if source[key].get("name") else [required(f"{where}.{key}.name")]
                out += _files(source[key], f"{where}.{key}")
    return out


SOURCES: dict[str, Callable[[Json, str], Causes]] = {
    "hostPath": _host_path,
    "secret": _named("secretName"),
    "configMap": _named("name"),
    "persistentVolumeClaim": _named("claimName"),
    "emptyDir": _size,
    "downwardAPI": _files,
    "projected": _projected,
}


def _modes(spec: Json, path: str) -> Causes:
    modes = spec.get("accessModes") or []
    out: Causes = [] if modes else [required(f"{path}.accessModes", "at least 1 access mode is required")]
    for mode in modes:
        out += one_of(f"{path}.accessModes", mode, MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        out.append(forbid(f"{path}.accessModes", "may not use ReadWriteOncePod with other access modes"))
    return out + one_of(f"{path}.volumeMode", spec.get("volumeMode"), ("Block", "Filesystem"))


def claim_spec_causes(spec: Json, path: str) -> Causes:
    """Return what is wrong with a PersistentVolumeClaim's spec."""
    requests = (spec.get("resources") or {}).get("requests") or {}
    out = _modes(spec, path) + say.label_selector(f"{path}.selector", spec.get("selector"))
    if "storage" not in requests:
        return [*out, required(f"{path}.resources[storage]")]
    where = f"{path}.resources[storage]"
    try:
        if of(requests["storage"]) <= 0:
            out.append(bad(where, requests["storage"], "must be greater than zero"))
    except BadQuantity:
        out.append(bad(where, requests["storage"], "must be a quantity, such as 1Gi"))
    return out


def claim_causes(obj: Json) -> Causes:
    return claim_spec_causes(obj.get("spec") or {}, "spec")


VOLUME_SOURCES = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume", "flocker",
    "gcePersistentDisk", "glusterfs", "hostPath", "iscsi", "local", "nfs", "photonPersistentDisk", "portworxVolume",
    "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip


def volume_object_causes(obj: Json) -> Causes:
    """Return what is wrong with a PersistentVolume."""
    spec = obj.get("spec") or {}
    out = _modes(spec, "spec")
    capacity = spec.get("capacity") or {}
    if not capacity:
        out.append(required("spec.capacity"))
    out += [
        c for c in amounts_causes(capacity, "spec.capacity") if "[storage]" not in c.field or "quantit" in c.message
    ]
    given = [key for key in VOLUME_SOURCES if spec.get(key) is not None]
    if not given:
        out.append(required("spec", "must specify a volume type"))
    out += [forbid(f"spec.{key}", "may not specify more than 1 volume type") for key in given[1:]]
    local = spec.get("local")
    if local is not None and not local.get("path"):
        out.append(required("spec.local.path"))
    if local is not None and not (spec.get("nodeAffinity") or {}).get("required"):
        out.append(required("spec.nodeAffinity", "Local volume requires node affinity"))
    policies = ("Delete", "Recycle", "Retain")
    return out + one_of("spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy"), policies)

"""Persistent volumes that are directories of this node: class ``local-path``, and local or hostPath volumes of its disk."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecore.pods import trees
from edgecore.pods.facts import NodeFacts
from edgecore.pods.lookups import Objects

Json = dict[str, Any]
ANNOTATION = "edge.skerry.io/local-path"  # of a PersistentVolume: the directory's name below ``<data-dir>/local-path``
DEFAULT_ROOT = "/var/lib/skerry/edge/local-path/"  # what spec.local.path says; it lies in the data directory in force
FOLDER = "local-path"
MODE = 0o777  # whoever the pod runs as may write; the directory above lets nobody else in
HOSTNAME_LABEL = "kubernetes.io/hostname"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?")
_TRASH = ".deleted-"


@dataclass(frozen=True, slots=True)
class Claimed:
    """The directory behind a claim. ``shared``: a hostPath, whose owner and rights are not ours to change."""

    path: Path
    readonly: bool
    shared: bool


class LocalPaths:
    """Directories of persistent volumes below one folder. Errors are ValueError with a sentence."""

    def __init__(self, data_dir: Path, objects: Objects) -> None:
        self.root = data_dir / FOLDER
        self._objects = objects

    def claimed(self, pod: Json, claim: str, facts: NodeFacts, *, owned: bool = False) -> Claimed:
        """Return the directory behind a claim, made if it is ours. ``owned``: the claim must be this pod's."""
        namespace = pod["metadata"].get("namespace", "")
        found = self._objects.get("persistentvolumeclaims", namespace, claim)
        if found is None:
            raise ValueError(f'persistentvolumeclaim "{claim}" not found')
        if owned and not _owned(found, pod):
            raise ValueError(f'persistentvolumeclaim "{claim}" was not made for this pod: its owner is another')
        volume = (found.get("spec") or {}).get("volumeName")
        if not volume or (found.get("status") or {}).get("phase", "Bound") not in {"Bound", ""}:
            raise ValueError(f'persistentvolumeclaim "{claim}" is not bound to a volume yet')
        held = self._objects.get("persistentvolumes", "", volume)
        if held is None:
            raise ValueError(f'persistentvolume "{volume}" of claim "{claim}" is not known on this node yet')
        shared = "hostPath" in (held.get("spec") or {})
        return Claimed(self.directory(held, facts), _read_only(held), shared)

    def directory(self, volume: Json, facts: NodeFacts) -> Path:
        """Return the directory of a PersistentVolume, made if it is ours. Raises ValueError, OSError."""
        name, spec = volume["metadata"]["name"], volume.get("spec") or {}
        if spec.get("volumeMode") == "Block":
            raise ValueError(f'persistentvolume "{name}" is a block device: this node mounts file systems only')
        if not fits(spec.get("nodeAffinity") or {}, facts):
            raise ValueError(f'persistentvolume "{name}" is on another node than {facts.name}')
        own = self._own(volume)
        if own is not None:
            self._make(own)
            return own
        path = (spec.get("local") or {}).get("path") or (spec.get("hostPath") or {}).get("path")
        if not path:
            kinds = sorted(set(spec) & _FOREIGN) or ["unknown"]
            raise ValueError(
                f'persistentvolume "{name}" is of kind {kinds[0]}: this node knows local, hostPath and class local-path'
            )
        found = Path(path)
        if not found.is_absolute() or ".." in found.parts or not found.is_dir():
            raise ValueError(f'path "{path}" of persistentvolume "{name}" is no directory on this node')
        return found

    def doomed(self, facts: NodeFacts) -> list[tuple[str, str, Path]]:
        """Return name, uid and directory of the volumes with policy Delete that the API is deleting.

        A volume that merely left this node's store keeps its directory; so does one that a pod here still mounts.
        """
        out = []
        in_use = self._in_use()
        for volume in self._objects.list("persistentvolumes", None):
            spec, metadata = volume.get("spec") or {}, volume["metadata"]
            doomed = metadata.get("deletionTimestamp") and spec.get("persistentVolumeReclaimPolicy") == "Delete"
            if not doomed or metadata["name"] in in_use:
                continue
            try:
                own = self._own(volume)
            except ValueError:  # said to whoever wants to mount it; nothing of it is here
                continue
            if own is not None and spec.get("nodeAffinity") and fits(spec["nodeAffinity"], facts):
                out.append((metadata["name"], metadata.get("uid", ""), own))
        return out

    def delete(self, directory: Path) -> None:
        """Remove one directory and all in it; right again after a crash. Raises OSError."""
        trash = self.root / f"{_TRASH}{directory.name}"
        if directory.exists():
            if trash.exists():
                trees.remove(trash)
            directory.rename(trash)  # from here on nobody finds half of it
        if trash.exists():
            trees.remove(trash)

    def _in_use(self) -> set[str]:
        out = set()
        for pod in self._objects.list("pods", None):
            metadata = pod["metadata"]
            for volume in (pod.get("spec") or {}).get("volumes") or ():
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
                name = f"{metadata['name']}-{volume.get('name')}" if "ephemeral" in volume else claim
                found = name and self._objects.get("persistentvolumeclaims", metadata.get("namespace", ""), name)
                if found:
                    out.add(str((found.get("spec") or {}).get("volumeName")))
        return out

    def _own(self, volume: Json) -> Path | None:
        annotation = (volume["metadata"].get("annotations") or {}).get(ANNOTATION)
        spec = volume.get("spec") or {}
        path = str((spec.get("local") or {}).get("path") or "")
        name = annotation or (path.removeprefix(DEFAULT_ROOT) if path.startswith(DEFAULT_ROOT) else "")
        if not name:
            return None
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a directory below {self.root}")
        return self.root / name

    def _make(self, directory: Path) -> None:
        if directory.is_dir() and not directory.is_symlink():
            return
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.root / f".new-{directory.name}"
        fresh.mkdir(exist_ok=True)
        fresh.chmod(MODE)
        fresh.rename(directory)  # never seen with other rights


_FOREIGN = frozenset(
    [
        "nfs",
        "csi",
        "iscsi",
        "cephfs",
        "rbd",
        "fc",
        "glusterfs",
        "azureDisk",
        "azureFile",
        "awsElasticBlockStore",
        "gcePersistentDisk",
        "cinder",
        "vsphereVolume",
        "flexVolume",
        "portworxVolume",
        "scaleIO",
        "storageos",
        "quobyte",
        "photonPersistentDisk",
        "flocker",
    ]
)


def fits(affinity: Mapping[str, Any], facts: NodeFacts) -> bool:
    """Whether a PersistentVolume's nodeAffinity lets this node use it; none lets every node."""
    terms = (affinity.get("required") or {}).get("nodeSelectorTerms")
    if not terms:
        return True
    labels = {HOSTNAME_LABEL: facts.name, **facts.labels}
    return any(_term(term, labels, facts.name) for term in terms)


def _term(term: Json, labels: Mapping[str, str], name: str) -> bool:
    rules, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not rules and not fields:
        return False
    own = {"metadata.name": name}
    return all(_rule(rule, labels) for rule in rules) and all(_rule(rule, own) for rule in fields)


def _rule(rule: Json, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(rule.get("key", "")), rule.get("values") or []
    operator = rule.get("operator")
    if operator in {"Gt", "Lt"}:
        return _number(operator, value, values)
    tests = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return tests.get(str(operator), False)


def _number(operator: str, value: str | None, values: list[str]) -> bool:
    try:
        held, bound = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return held > bound if operator == "Gt" else held < bound


def _owned(claim: Json, pod: Json) -> bool:
    owners = claim["metadata"].get("ownerReferences") or ()
    return any(owner.get("uid") == pod["metadata"].get("uid") for owner in owners)


def _read_only(volume: Json) -> bool:
    modes = (volume.get("spec") or {}).get("accessModes") or []
    return bool(modes) and set(modes) == {"ReadOnlyMany"}

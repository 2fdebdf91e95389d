"""Persistent volumes of class local-path (VOL-6, VOL-7)."""

from pathlib import Path
from typing import Any

import pytest

from edgecore.pods.localpath import ANNOTATION, LocalPaths, fits
from edgecore.pods.reclaim import Reclaimer
from tests.kit.pod_objects import FACTS, UID, HeldObjects, pod

Json = dict[str, Any]
HERE = {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gw-1"]}]}]}}  # fmt: skip


class Room:
    def __init__(self, path: Path) -> None:
        self.path, self.objects = path, HeldObjects()
        self.local = LocalPaths(path, self.objects)
        self.sent: list[tuple[str, bytes]] = []
        self.reclaimer = Reclaimer(self.local, lambda: FACTS, self, self)

    def volume(self, name: str = "pv-1", **fields: Any) -> Json:
        metadata = fields.pop("metadata", {"annotations": {ANNOTATION: name}})
        spec = {"nodeAffinity": HERE, "persistentVolumeReclaimPolicy": "Delete", **fields}
        return self.objects.put("persistentvolumes", name, "", metadata=metadata, spec=spec)

    def claim(self, **fields: Any) -> Json:
        return self.objects.put("persistentvolumeclaims", "data", spec={"volumeName": "pv-1"}, **fields)

    async def tx(self, work: Any) -> None:
        work(None)

    def put_state(self, tx: Any, key: str, body: bytes, *, priority: int) -> None:
        raise AssertionError(key)

    def put_message(self, tx: Any, kind: str, body: bytes) -> None:
        self.sent.append((kind, body))

    async def reclaimed(self) -> list[tuple[str, bytes]]:
        """What the cloud is told after one more turn."""
        self.sent = []
        await self.reclaimer.turn()
        return self.sent

    def claimed(self, *, owned: bool = False) -> Any:
        return self.local.claimed(pod(), "data", FACTS, owned=owned)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.mark.parametrize("by", ["annotation", "path"])
def test_a_claim_is_a_directory_of_the_data_directory_in_force(room: Room, by: str) -> None:
    if by == "annotation":
        room.volume()
    else:
        room.volume(metadata={}, local={"path": "/var/lib/skerry/edge/local-path/pv-1"})
    room.claim()

    found = room.claimed()

    assert (found.path, found.readonly, found.shared) == (room.path / "local-path/pv-1", False, False)
    assert found.path.stat().st_mode & 0o777 == 0o777
    (found.path / "kept").write_text("data")
    assert (room.claimed().path / "kept").read_text() == "data"


def test_a_local_directory_of_somebody_else_is_used_when_it_is_there(room: Room, tmp_path: Path) -> None:
    room.volume(metadata={}, local={"path": f"{tmp_path}/disk"})
    room.claim()
    with pytest.raises(ValueError, match="is no directory on this node"):
        room.claimed()
    (tmp_path / "disk").mkdir()

    assert room.claimed().path == tmp_path / "disk"


def test_a_host_path_volume_keeps_its_owner(room: Room, tmp_path: Path) -> None:
    room.volume(metadata={}, hostPath={"path": str(tmp_path)}, accessModes=["ReadOnlyMany"])
    room.claim()

    assert (room.claimed().shared, room.claimed().readonly) == (True, True)


@pytest.mark.parametrize(
    ("volume", "claim", "words"),
    [
        ({}, None, 'persistentvolumeclaim "data" not found'),
        ({}, {"status": {"phase": "Pending"}}, "is not bound to a volume yet"),
        (None, {}, 'persistentvolume "pv-1" of claim "data" is not known on this node yet'),
        ({"volumeMode": "Block"}, {}, "is a block device"),
        ({"nodeAffinity": {"required": {"nodeSelectorTerms": [{}]}}}, {}, "is on another node than gw-1"),
        (
            {"metadata": {}, "nfs": {"server": "x"}},
            {},
            "is of kind nfs: this node knows local, hostPath and class local-path",
        ),
        ({"metadata": {"annotations": {ANNOTATION: "../../etc"}}}, {}, "no name of a directory"),
        ({"metadata": {}, "local": {"path": "/var/lib/skerry/edge/local-path/a/b"}}, {}, "no name of a directory"),
        ({"metadata": {}, "local": {"path": "/tmp/../etc"}}, {}, "is no directory on this node"),
    ],
)
def test_a_claim_that_cannot_be_mounted_is_explained(
    room: Room, volume: Json | None, claim: Json | None, words: str
) -> None:
    if volume is not None:
        room.volume(**volume)
    if claim is not None:
        room.claim(**claim)

    with pytest.raises(ValueError, match=words):
        room.claimed()


def test_an_ephemeral_claim_belongs_to_its_pod(room: Room) -> None:
    room.volume()
    room.claim()
    with pytest.raises(ValueError, match="its owner is another"):
        room.claimed(owned=True)
    room.claim(metadata={"ownerReferences": [{"uid": UID}]})

    assert room.claimed(owned=True).path.is_dir()


GONE = {"annotations": {ANNOTATION: "pv-1"}, "deletionTimestamp": "x", "uid": "u-1"}


async def test_data_goes_only_with_a_volume_that_the_api_deletes(room: Room) -> None:
    room.volume()
    room.claim()
    path = room.claimed().path
    (path / "d").mkdir()
    room.objects.held.clear()
    assert await room.reclaimed() == []
    room.volume(persistentVolumeReclaimPolicy="Retain", metadata=GONE)
    assert await room.reclaimed() == []
    room.volume()
    assert await room.reclaimed() == []
    assert path.is_dir()

    room.volume(metadata=GONE)
    assert await room.reclaimed() == [("volume-gone", b'{"name":"pv-1","uid":"u-1"}')]
    assert await room.reclaimed() == []
    assert list((room.path / "local-path").iterdir()) == []


async def test_data_stays_while_a_pod_mounts_it(room: Room) -> None:
    room.volume(metadata=GONE)
    room.claim()
    path = room.claimed().path
    mounted = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    room.objects.put("pods", "web", spec={"volumes": mounted})
    assert await room.reclaimed() == []
    assert path.is_dir()

    del room.objects.held["pods", "default", "web"]

    assert len(await room.reclaimed()) == 1
    assert not path.exists()


def test_a_deletion_that_was_interrupted_is_finished(room: Room) -> None:
    room.volume()
    room.claim()
    path = room.claimed().path
    path.rename(path.with_name(".deleted-pv-1"))

    room.local.delete(path)

    assert list((room.path / "local-path").iterdir()) == []


def term(*rules: tuple[str, str, list[str]]) -> Json:
    return {
        "matchExpressions": [{"key": key, "operator": operator, "values": values} for key, operator, values in rules]
    }


@pytest.mark.parametrize(
    ("terms", "fitting"),
    [
        ([], True),
        ([term(("zone", "In", ["north", "east"]))], True),
        ([term(("zone", "In", ["south"]))], False),
        ([term(("zone", "NotIn", ["south"]))], True),
        ([term(("zone", "Exists", []), ("disk", "DoesNotExist", []))], True),
        ([term(("disk", "Exists", []))], False),
        ([term(("zone", "In", ["south"])), term(("kubernetes.io/hostname", "In", ["gw-1"]))], True),
        ([term(("zone", "Gt", ["1"]))], False),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gw-1"]}]}], True),
        ([term(("zone", "Sings", ["1"]))], False),
    ],
)
def test_node_affinity_of_a_volume(terms: list[Json], fitting: bool) -> None:
    assert fits({"required": {"nodeSelectorTerms": terms}}, FACTS) is fitting

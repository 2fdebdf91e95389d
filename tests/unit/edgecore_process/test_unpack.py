"""Images of archives: checked, laid over each other as they were meant, and never outside of their root (PROC-7)."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods.process.images import ImageStore
from edgecore.pods.runtime import RuntimeRefused
from proto.kit.clock import SystemClock
from tests.kit import images

NAME = "localhost/skerry/made:1"
Member = tuple[str, dict[str, Any], bytes]


def file(name: str, content: bytes = b"x", **fields: Any) -> Member:
    return name, fields, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return name, {"type": kind, "linkname": target}, b""


def folder(name: str) -> Member:
    return name, {"type": tarfile.DIRTYPE}, b""


def layer(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, fields, content in members:
            item = tarfile.TarInfo(name)
            item.mode, item.size = 0o755, len(content)
            for key, value in fields.items():
                setattr(item, key, value)
            tar.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", SystemClock(), set)


async def unpacked(store: ImageStore, *layers: bytes, change: Callable[[Path], None] = lambda _: None) -> Path:
    archive = images.write_archive(store.folder.parent / "made.tar", images.image(NAME, layers, {"Cmd": ["x"]}))
    change(archive)
    assert await store.take(archive) == [NAME]
    record = store.find(NAME)
    assert record is not None
    return store.root(record)


async def refused(store: ImageStore, *layers: bytes, change: Callable[[Path], None] = lambda _: None) -> str:
    with pytest.raises(RuntimeRefused) as refusal:
        await unpacked(store, *layers, change=change)
    assert refusal.value.reason == "InvalidArchive"
    assert [p.name for p in store.folder.rglob("*") if p.is_file()] == ["lock"]
    return str(refusal.value)


async def test_a_later_layer_replaces_hides_and_adds(store: ImageStore) -> None:
    first = layer(folder("a"), file("a/kept"), file("a/gone"), folder("b"), file("b/old"), file("c", b"1"))
    second = layer(file("a/.wh.gone", b""), file("b/new"), file("b/.wh..wh..opq", b""), file("c", b"2"))

    root = await unpacked(store, first, second)

    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == ["a", "a/kept", "b", "b/new", "c"]
    assert (root / "c").read_bytes() == b"2"


async def test_names_and_links_never_lead_out(store: ImageStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [
        file("../../escaped"),
        link("way", str(outside)),
        file("way/planted"),
        link("etc", "/"),
        file("etc/inside"),
    ]

    root = await unpacked(store, layer(*members[:1]), layer(*members[1:]))

    assert list(outside.iterdir()) == []
    assert not (tmp_path / "escaped").exists()
    assert (root / "escaped").exists()
    assert (root / "inside").exists()


async def test_a_hard_link_is_one_file_and_devices_are_left_out(store: ImageStore) -> None:
    device = ("dev", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")

    root = await unpacked(store, layer(file("one"), link("two", "one", tarfile.LNKTYPE), device))

    assert (root / "one").stat().st_ino == (root / "two").stat().st_ino
    assert not (root / "dev").exists()


async def test_a_hard_link_to_a_file_of_the_node_is_refused(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the node")

    said = await refused(store, layer(link("taken", str(tmp_path / "secret"), tarfile.LNKTYPE)))

    assert "No such file" in said


async def test_a_changed_layer_is_refused(store: ImageStore) -> None:
    def damage(archive: Path) -> None:
        archive.write_bytes(archive.read_bytes().replace(b"MARK-OF-A-FILE", b"MARK-OF-A-THIEF"[:14]))

    assert "digest" in await refused(store, layer(file("x", b"MARK-OF-A-FILE")), change=damage)


async def test_an_image_for_another_machine_is_refused(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ARCHITECTURE", "s390x")

    assert "s390x" in await refused(store, layer(file("x")))


async def test_images_of_the_same_layers_share_a_root_until_the_last_is_removed(store: ImageStore) -> None:
    content = layer(file("x"))
    for name in ("a", "b"):
        one = images.image(f"localhost/skerry/{name}:1", [content], {"Cmd": [name]})
        await store.take(images.write_archive(store.folder.parent / f"{name}.tar", one))
    roots = store.folder / "roots"

    assert len(list(roots.iterdir())) == 1
    await store.remove("localhost/skerry/a:1")
    assert len(list(roots.iterdir())) == 1
    await store.remove("localhost/skerry/b:1")
    assert list(roots.iterdir()) == []


async def test_a_name_belongs_to_the_image_that_came_last(store: ImageStore) -> None:
    for content in (b"1", b"2"):
        await unpacked(store, layer(file("x", content)))

    tags = [image.tags for image in store.images()]
    assert sorted(tags) == [(), (NAME,)]


async def test_what_docker_save_writes_is_read_compressed_layers_too(store: ImageStore, tmp_path: Path) -> None:
    plain = layer(file("x", b"docker"))
    made = images.image(NAME, [plain], {"Cmd": ["x"]})
    config = json.loads(made.blobs[made.manifest["digest"]])["config"]["digest"]
    manifest = [{"Config": "config.json", "RepoTags": ["made:1"], "Layers": ["0/layer.tar"]}]
    archive = tmp_path / "saved.tar"
    with tarfile.open(archive, "w") as tar:
        for name, content in (
            ("config.json", made.blobs[config]),
            ("0/layer.tar", gzip.compress(plain)),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))

    assert await store.take(archive) == ["docker.io/library/made:1"]

    record = store.find("made:1")
    assert record is not None
    assert (store.root(record) / "x").read_bytes() == b"docker"


async def test_a_layer_that_this_machine_cannot_unpack_is_named(store: ImageStore) -> None:
    assert "zstd" in await refused(store, b"\x28\xb5\x2f\xfd" + bytes(100))


async def test_an_archive_that_is_a_gzip_is_read(store: ImageStore) -> None:
    def compress(archive: Path) -> None:
        archive.write_bytes(gzip.compress(archive.read_bytes()))

    root = await unpacked(store, layer(file("x")), change=compress)

    assert (root / "x").exists()


async def test_what_a_killed_import_left_goes_at_the_next(store: ImageStore) -> None:
    left = store.folder / "partial" / "half"
    left.mkdir(parents=True)

    await unpacked(store, layer(file("x")))

    assert not left.exists()

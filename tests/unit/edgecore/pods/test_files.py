"""The parts of volumes that touch a disk: atomic content, paths that stay inside, ownership, hostPath, measuring (VOL-2, VOL-3, VOL-5, VOL-9, VOL-10)."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import atomic, cgroups, hostpaths, mounts, ownership, usage
from edgecore.pods.poddirs import PodDirs
from edgecore.pods.projected import File
from edgecore.pods.subpaths import Escape, open_inside
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import container, pod

CLOCK = ManualClock()


def shown(volume: Path) -> dict[str, str]:
    """What a reader sees: every visible file by its path."""
    out = {}
    for root, directories, names in os.walk(volume, followlinks=True):
        directories[:] = [d for d in directories if not d.startswith("..")]
        for name in names:
            if not name.startswith(".."):
                path = Path(root) / name
                out[path.relative_to(volume).as_posix()] = path.read_text()
    return out


def files(**content: str) -> dict[str, File]:
    return {name.replace("__", "/").replace("_", "."): File(text.encode()) for name, text in content.items()}


def test_content_is_written_once_and_replaced_by_one_rename(tmp_path: Path) -> None:
    volume = tmp_path / "v"

    assert atomic.write(volume, files(a_conf="1", d__e="2"), CLOCK)
    first = (volume / "..data").readlink()
    assert not atomic.write(volume, files(a_conf="1", d__e="2"), CLOCK)
    assert (volume / "..data").readlink() == first
    assert shown(volume) == {"a.conf": "1", "d/e": "2"}
    assert (volume / "a.conf").readlink() == Path("..data/a.conf")

    assert atomic.write(volume, files(b_conf="3"), CLOCK)
    assert shown(volume) == {"b.conf": "3"}
    assert len([p for p in volume.iterdir() if p.name.startswith("..2")]) == 1


def test_an_open_directory_keeps_its_old_content_whole(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    atomic.write(volume, files(a="old", b="old"), CLOCK)
    with (volume / "a").open() as held:
        atomic.write(volume, files(a="new", b="new"), CLOCK)

        assert held.read() == "old"
    assert shown(volume) == {"a": "new", "b": "new"}


@pytest.mark.parametrize("left", ["half-written", "next link", "no links", "empty after a power cut", "stray names"])
def test_what_a_crash_left_is_put_right(tmp_path: Path, left: str) -> None:
    volume = tmp_path / "v"
    atomic.write(volume, files(a="1", b="2"), CLOCK)
    if left == "half-written":
        (volume / "..2026_half").mkdir()
        (volume / "..2026_half" / "a").write_text("x")
    elif left == "next link":
        (volume / "..data_tmp").symlink_to("..nowhere")
    elif left == "no links":
        (volume / "b").unlink()
    elif left == "empty after a power cut":
        (volume / "..data" / "a").write_text("")
    else:
        (volume / "c").symlink_to("..data/c")
        (volume / "d").mkdir()

    atomic.write(volume, files(a="1", b="2"), CLOCK)

    assert shown(volume) == {"a": "1", "b": "2"}
    assert sorted(p.name for p in volume.iterdir() if not p.name.startswith("..2")) == ["..data", "a", "b"]


def test_modes_users_and_groups_are_set(tmp_path: Path) -> None:
    volume = tmp_path / "v"

    atomic.write(volume, {"k": File(b"s", 0o400, 1000)}, CLOCK)
    status = (volume / "k").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (1000, 0o400)

    atomic.write(volume, {"k": File(b"s", 0o400)}, CLOCK, group=2000)
    status = (volume / "k").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 2000, 0o440)
    assert not atomic.write(volume, {"k": File(b"s", 0o400)}, CLOCK, group=2000)


def inside(root: Path, path: str, *, create: bool = False) -> Path:
    descriptor = open_inside(root, path, create=create)
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)


def test_a_sub_path_is_found_through_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "v/a/b").mkdir(parents=True)
    (tmp_path / "v/link").symlink_to("a/../a/b")
    (tmp_path / "v/a/up").symlink_to("..")

    assert inside(tmp_path / "v", "link") == tmp_path / "v/a/b"
    assert inside(tmp_path / "v", "a/up/a/./b") == tmp_path / "v/a/b"
    assert inside(tmp_path / "v", "new/er", create=True) == tmp_path / "v/new/er"
    assert (tmp_path / "v/new/er").is_dir()


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../..", "self/../.."])
def test_a_link_out_of_the_volume_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "v/a").mkdir(parents=True)
    (tmp_path / "v/self").symlink_to(".")
    (tmp_path / "v/out").symlink_to(target)

    with pytest.raises(Escape, match="leads out of its volume"):
        inside(tmp_path / "v", "out")
    with pytest.raises(Escape, match="leads out of its volume"):
        inside(tmp_path / "v", "out/passwd", create=True)


def test_links_that_go_round_and_missing_names_are_errors(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(OSError, match="Too many levels"):
        inside(tmp_path, "loop")
    with pytest.raises(FileNotFoundError):
        inside(tmp_path, "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        inside(tmp_path, "file/x", create=True)


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "out").symlink_to("/")
    for path in ("a/b/c", "out", "none"):
        with suppress(Escape, FileNotFoundError):
            inside(tmp_path, path, create=path == "a/b/c")

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_fs_group_owns_what_is_in_the_volume_and_nothing_behind_links(tmp_path: Path) -> None:
    volume, outside = tmp_path / "v", tmp_path / "outside"
    (volume / "d").mkdir(parents=True)
    (volume / "d/f").write_text("")
    (volume / "d/f").chmod(0o600)
    outside.write_text("")
    outside.chmod(0o600)
    (volume / "link").symlink_to(outside)

    assert ownership.give(volume, 2000, None)

    for path, mode in ((volume, 0o2775), (volume / "d", 0o2775), (volume / "d/f", 0o660)):
        status = path.lstat()
        assert (status.st_gid, status.st_mode & mode) == (2000, mode)
    assert (outside.stat().st_gid, outside.stat().st_mode & 0o777) == (0, 0o600)


def test_an_fs_group_is_given_to_no_host_file_that_a_pod_swaps_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # VOL-3
    volume, host = tmp_path / "v", tmp_path / "host"
    for folder in (volume / "d", host):
        folder.mkdir(parents=True)
        (folder / "f").write_text("")
        (folder / "f").chmod(0o600)
    fwalk = os.fwalk

    def swapping(*args: Any, **given: Any) -> Iterator[Any]:
        for step in fwalk(*args, **given):
            if step[1] == [] and not (volume / "d").is_symlink():
                (volume / "d").rename(tmp_path / "aside")
                (volume / "d").symlink_to(host)
            yield step

    monkeypatch.setattr(os, "fwalk", swapping)

    ownership.give(volume, 2000, None)

    assert [path.stat().st_gid for path in (host, host / "f", tmp_path / "aside/f")] == [0, 0, 2000]


def test_on_root_mismatch_leaves_a_tree_whose_root_fits(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    volume.mkdir()
    assert ownership.give(volume, 2000, ownership.ON_ROOT_MISMATCH)
    (volume / "late").write_text("")
    os.chown(volume / "late", 0, 0)

    assert not ownership.give(volume, 2000, ownership.ON_ROOT_MISMATCH)
    assert (volume / "late").stat().st_gid == 0
    assert ownership.give(volume, 2000, "Always")
    assert (volume / "late").stat().st_gid == 2000


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


MAKE: dict[str, Callable[[Path], Any]] = {
    "Directory": Path.mkdir,
    "File": Path.touch,
    "Socket": _socket,
    "CharDevice": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_host_path_is_what_its_type_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    with pytest.raises(ValueError, match="does not exist"):
        hostpaths.check({"path": str(path), "type": kind})
    MAKE[kind](path)

    hostpaths.check({"path": str(path), "type": kind})
    with pytest.raises(ValueError, match="is not"):
        hostpaths.check({"path": str(path), "type": "BlockDevice"})


def test_what_we_make_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        hostpaths.check({"path": f"{tmp_path}/d/e", "type": "DirectoryOrCreate"})
        hostpaths.check({"path": f"{tmp_path}/f", "type": "FileOrCreate"})
        atomic.write(tmp_path / "v", files(a__b="1"), CLOCK)
        os.close(open_inside(tmp_path / "v", "new/er", create=True))
    finally:
        os.umask(before)

    modes = [(tmp_path / path).stat().st_mode & 0o777 for path in ("d", "d/e", "f", "v", "v/a", "v/a/b", "v/new/er")]
    assert modes == [0o755, 0o755, 0o644, 0o777, 0o755, 0o644, 0o777]


def test_without_the_right_to_set_group_ids_a_group_still_gets_its_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chmod = Path.chmod

    def forbidden(path: Path, mode: int) -> None:
        if mode & 0o6000:
            raise PermissionError(1, "Operation not permitted", str(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", forbidden)

    ownership.give(tmp_path, 2000, None)
    atomic.write(tmp_path / "v", files(a="1"), CLOCK, group=2000)

    assert (tmp_path.stat().st_gid, tmp_path.stat().st_mode & 0o7770) == (2000, 0o770)
    assert (tmp_path / "v/a").stat().st_gid == 2000


def test_a_missing_directory_that_we_may_not_make_is_left_to_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def readonly(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", readonly)

    hostpaths.check({"path": "/none/such", "type": "DirectoryOrCreate"})
    hostpaths.check({"path": "/none/such", "type": ""})


def test_a_host_path_is_made_where_its_type_allows(tmp_path: Path) -> None:
    hostpaths.check({"path": f"{tmp_path}/d/e", "type": "DirectoryOrCreate"})
    hostpaths.check({"path": f"{tmp_path}/f", "type": "FileOrCreate"})
    hostpaths.check({"path": f"{tmp_path}/g", "type": ""})

    assert (tmp_path / "d/e").is_dir()
    assert (tmp_path / "f").is_file()
    assert (tmp_path / "g").is_dir()


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("relative", "", "must be absolute"),
        ("/a/../b", "", "'\\.\\.'"),
        ("", "", "absolute"),
        ("/", "Cupboard", "not known"),
    ],
)
def test_a_host_path_that_cannot_be_is_refused(path: str, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hostpaths.check({"path": path, "type": kind})


def test_room_taken_counts_each_file_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x" * 100_000)
    empty = usage.of(tmp_path / "d")
    os.link(tmp_path / "d/f", tmp_path / "d/again")
    (tmp_path / "d/link").symlink_to("/usr")

    assert empty >= 100_000
    assert usage.of(tmp_path / "d") - empty < 10_000
    assert usage.of(tmp_path / "none") == 0


def test_a_uid_that_is_no_file_name_reaches_no_directory(tmp_path: Path) -> None:
    dirs = PodDirs(tmp_path, memory=None, mounting=False)

    for uid in ("", "..", "../x", "a/b", "x" * 200):
        with pytest.raises(ValueError, match="no uid"):
            dirs.delete(uid)


def test_nothing_is_deleted_below_a_mount_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    dirs = PodDirs(tmp_path / "edge", memory=None, mounting=True)
    place = dirs.subpath("uid-1", "app", 0)
    place.mkdir(parents=True)
    mounts.bind(str(precious), place)
    unmount = mounts.unmount
    try:
        with monkeypatch.context() as stuck:
            stuck.setattr(mounts, "unmount", lambda _: None)
            with pytest.raises(Exception, match="cannot be unmounted"):
                dirs.delete("uid-1")
        assert dirs.uids() == {"uid-1"}

        dirs.delete("uid-1")
    finally:
        for path in mounts.below(tmp_path):
            unmount(path)

    assert (precious / "file").read_text() == "mine"
    assert dirs.uids() == set()


def test_mountinfo_is_read_with_its_escapes() -> None:
    line = "36 35 98:0 /a /mnt\\040x rw,noatime,noexec shared:1 master:2 - tmpfs src rw"
    plain = "37 35 98:0 / / rw - ext4 /dev/x rw"

    held = mounts.table(f"{plain}\n{line}\nnonsense\n")

    assert [(m.path, m.kind, m.shared) for m in held] == [("/", "ext4", False), ("/mnt x", "tmpfs", True)]
    assert "noexec" in held[1].options
    assert mounts.covering(Path("/mnt x/y"), held) == held[1]
    assert mounts.covering(Path("/mnt"), held) == held[0]


def test_cgroups_of_a_pod_are_removed_and_only_those(tmp_path: Path) -> None:
    for name in ("podu-1/c-1", "besteffort/podu-1/c-2", "besteffort/podu-2"):
        (tmp_path / "cpu/skerry-pods" / name).mkdir(parents=True)

    cgroups.remove("u-1", [tmp_path / "cpu", tmp_path / "none"])
    cgroups.remove("u-1", [tmp_path / "cpu"])

    assert [p.name for p in (tmp_path / "cpu/skerry-pods").iterdir()] == ["besteffort"]
    assert [p.name for p in (tmp_path / "cpu/skerry-pods/besteffort").iterdir()] == ["podu-2"]


def test_a_cgroup_in_use_is_for_later(tmp_path: Path) -> None:
    folder = tmp_path / "skerry-pods/podu-1"
    folder.mkdir(parents=True)
    (folder / "file").touch()

    with pytest.raises(cgroups.StillRunning, match="is in use"):
        cgroups.remove("u-1", [tmp_path])


def test_the_classes_of_pods_go_when_no_pod_is_left(tmp_path: Path) -> None:
    for name in ("cpu/skerry-pods/burstable", "cpu/skerry-pods/besteffort/podu-1", "pids/skerry-pods/burstable"):
        (tmp_path / name).mkdir(parents=True)

    cgroups.remove_classes([tmp_path / "cpu", tmp_path / "pids", tmp_path / "none"])

    assert [p.name for p in (tmp_path / "cpu/skerry-pods").iterdir()] == ["besteffort"]
    assert not (tmp_path / "pids/skerry-pods").exists()


def test_real_hierarchies_are_found() -> None:
    assert all((root / "cgroup.procs").exists() for root in cgroups.hierarchies())
    assert cgroups.hierarchies()


def asking(cpu: str | None, uid: str = "u-1") -> dict[str, Any]:
    return pod(container(resources={"requests": {"cpu": cpu}} if cpu else {}), uid=uid)


@pytest.mark.parametrize(
    ("cpu", "folder", "file", "weights"),
    [
        ("500m", "skerry-pods/burstable/podu-1", "cpu.shares", ("512", "1536")),
        (None, "skerry-pods/besteffort/podu-1", "cpu.shares", ("2", "2")),
        ("500m", "skerry-pods/burstable/podu-1", "cpu.weight", ("20", "59")),
        (
            "500m",
            "skerry_pods.slice/skerry_pods-burstable.slice/skerry_pods-burstable-podu_1.slice",
            "cpu.weight",
            ("20", "59"),
        ),
    ],
)
def test_pod_and_class_are_weighed_by_what_they_ask_for(
    tmp_path: Path, cpu: str | None, folder: str, file: str, weights: tuple[str, str]
) -> None:
    one, other = asking(cpu), asking("1", "u-2")
    (tmp_path / folder).mkdir(parents=True)
    for place in (tmp_path / folder, (tmp_path / folder).parent):
        (place / file).write_text("1024")

    cgroups.weigh(one, [one, other], [tmp_path, tmp_path / "none"])

    assert ((tmp_path / folder / file).read_text(), ((tmp_path / folder).parent / file).read_text()) == weights


def test_a_cgroup_that_the_runtime_did_not_make_is_not_made(tmp_path: Path) -> None:
    cgroups.weigh(asking("1"), [], [tmp_path])

    assert list(tmp_path.iterdir()) == []


def test_logs_of_a_pod_with_the_longest_name_have_a_directory(tmp_path: Path) -> None:
    dirs = PodDirs(tmp_path, memory=None, mounting=False)
    uid = "0b8f7a4e-1111-4222-8333-944455556666"

    dirs.log_dir("n" * 63, "p" * 253, uid).mkdir(parents=True)

    assert dirs.uids() == {uid}
    dirs.delete(uid)
    assert dirs.uids() == set()

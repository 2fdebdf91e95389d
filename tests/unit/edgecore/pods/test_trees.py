"""What pods leave is removed, however deep it is, and nothing beside it."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgecore.pods import trees
from edgecore.pods.localpath import LocalPaths
from edgecore.pods.poddirs import PodDirs
from edgecore.pods.process import records
from tests.kit.pod_objects import HeldObjects

LEVELS = 2_000


def deepen(top: Path) -> None:
    """Make directories in one another, with a file at the bottom."""
    top.mkdir(parents=True, exist_ok=True)
    here = os.open(top, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@contextmanager
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pods_volumes_are_removed_however_deep_they_are(tmp_path: Path) -> None:  # VOL-1
    dirs = PodDirs(tmp_path, memory=None, mounting=False)
    deepen(dirs.volume("uid-1", "scratch"))
    deepen(dirs.log_dir("default", "web", "uid-1"))
    with few_descriptors():
        dirs.delete("uid-1")
    assert dirs.uids() == set()
    assert not dirs.pod("uid-1").exists()


def test_a_persistent_volume_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path, HeldObjects())
    deepen(paths.root / "pv-1")
    with few_descriptors():
        paths.delete(paths.root / "pv-1")
    assert list(paths.root.iterdir()) == []


def test_what_a_container_wrote_is_removed_however_deep_it_is(tmp_path: Path) -> None:  # PROC-4
    deepen(tmp_path / "container" / "upper")
    with few_descriptors():
        records.delete(tmp_path / "container")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept" / "inner").mkdir(parents=True)
    (tmp_path / "kept" / "file").write_text("x")
    top = tmp_path / "top"
    for name in ("a", "b", "c"):
        (top / name / "deep").mkdir(parents=True)
        (top / name / "link").symlink_to(tmp_path / "kept")
        (top / name / "deep" / "broken").symlink_to("nowhere")
    trees.remove(top)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "inner", "kept"]


def test_a_link_is_no_directory_to_remove(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        trees.remove(tmp_path / "link")
    assert (tmp_path / "kept").is_dir()

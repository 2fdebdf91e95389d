"""Where mounts really go (PROC-8)."""

from pathlib import Path

import pytest

from edgecore.pods.process.shim import paths


def test_links_of_an_image_are_followed_inside_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("/run")
    (tmp_path / "up").symlink_to("../../../../etc")

    found = [paths.resolve(str(tmp_path), path) for path in ("/var/run/secrets/x", "/up/hosts", "/a/../b/./c", "/")]

    assert found == ["/run/secrets/x", "/etc/hosts", "/b/c", "/"]


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(paths.Unsafe):
        paths.resolve(str(tmp_path), "/a")


def test_a_link_in_a_volume_is_never_followed_by_a_mount_within_it(tmp_path: Path) -> None:
    root, volume = tmp_path / "root", tmp_path / "volume"
    root.mkdir()
    volume.mkdir()
    (volume / "plain").mkdir()
    (volume / "trap").symlink_to("/etc")

    assert paths.targets(str(root), [["/v", str(volume)], ["/v/plain", "/x"]]) == ["/v", "/v/plain"]
    with pytest.raises(paths.Unsafe, match="/v/trap"):
        paths.targets(str(root), [["/v", str(volume)], ["/v/trap/x", "/x"]])

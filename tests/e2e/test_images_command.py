"""``edgecore images`` against a real containerd: no registry, no network, no daemon."""

from pathlib import Path

import pytest

from tests.kit import containerd, images
from tests.kit.command import Said, failed, say

REF = "docker.io/edge/extra:1"


@pytest.mark.timeout(120)
async def test_images_come_from_files_are_listed_and_pruned(tmp_path: Path) -> None:
    archive = images.write_archive(tmp_path / "extra.tar", images.busybox_image(REF))
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive")

    async with containerd.host() as host:

        async def edgecore(*words: str) -> Said:
            verb = ("edgecore", "images", *words)
            return await say(*verb, "--data-dir", str(tmp_path), "--set", f"pods.cri_socket={host.socket}")

        taken = await edgecore("import", str(archive))
        assert (taken.code, taken.out) == (0, f"imported {REF}\n"), taken
        listed = (await edgecore("list", "-o", "json")).json()["items"]
        assert next(row for row in listed if row["name"] == REF)["needed"] is False
        assert "NEEDED" in (await edgecore("list")).out

        both = await edgecore("import", str(broken), str(archive), "-o", "json")
        assert both.code == 1
        assert "Traceback" not in both.err
        rows = both.json()["items"]
        assert "is no image archive" in rows[0]["error"]
        assert rows[1]["images"] == [REF]

        assert (await edgecore("prune")).out == "nothing to remove\n"
        pruned = (await edgecore("prune", "--all", "-o", "json")).json()
        assert REF in [row["name"] for row in pruned["removed"]]
        left = [row["name"] for row in (await edgecore("list", "-o", "json")).json()["items"]]
        assert REF not in left
        assert any("pause" in name for name in left)


async def test_a_node_without_a_runtime_says_so(tmp_path: Path) -> None:
    said = await say("edgecore", "images", "list", "--data-dir", str(tmp_path), "--set", "pods.runtime=none")

    failed(said, 1, "no container runtime on this node: pods.runtime is none")


async def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    socket = ("--set", "pods.runtime=cri", "--set", f"pods.cri_socket={tmp_path}/none.sock")

    said = await say("edgecore", "images", "import", str(tmp_path / "x.tar"), "--data-dir", str(tmp_path), *socket)

    failed(said, 1, "No such file or directory")

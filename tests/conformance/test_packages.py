"""The Debian packages: the same commit gives the same bytes, and what is inside runs on Debian's own Python alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def build(out: Path) -> Path:
    said = subprocess.run(
        [sys.executable, "-m", "deploy.deb.build", "--out", str(out), "skerry-edge"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return Path(said.stdout.strip())


def listing(package: Path) -> dict[str, str]:
    """Return path -> mode of what a package installs."""
    said = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True)
    rows = (line.split(maxsplit=5) for line in said.stdout.splitlines())
    return {row[5].removeprefix("."): row[0] for row in rows}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"))


def test_two_builds_of_one_commit_are_equal(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == package.read_bytes()


def test_settings_are_in_etc_and_nothing_is_outside_its_places(package: Path) -> None:
    files = listing(package)

    assert files["/etc/skerry/edge.yaml"] == "-rw-r--r--"
    assert files["/usr/bin/edgecore"] == "-rwxr-xr-x"
    assert "/lib/systemd/system/edgecore.service" in files
    places = (
        "/usr/lib/skerry/edge/",
        "/usr/share/doc/skerry-edge/",
        "/etc/skerry/",
        "/etc/cni/net.d/",
        "/lib/systemd/system/",
        "/usr/bin/",
    )
    assert [f for f in files if not f.endswith("/") and not f.startswith(places)] == []


def test_the_edge_package_holds_nothing_of_the_cloud(package: Path) -> None:
    site = "/usr/lib/skerry/edge/lib/python3.11/site-packages/"
    top = {f.removeprefix(site).split("/")[0] for f in listing(package) if f.startswith(site)}

    assert {"edgecore", "kubeapi", "devicetwin", "proto"} <= top
    assert top & {"cloudcore", "kubernetes", "sqlalchemy", "sqlmodel", "pydantic", "grpc", "aiohttp"} == set()


def test_the_daemon_starts_from_the_package_with_the_systems_python(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(package), str(tmp_path)], check=True)
    python = tmp_path / "usr/lib/skerry/edge/bin/python3"

    said = subprocess.run(
        [str(python), "-I", "-m", "edgecore", "status", "--data-dir", str(tmp_path / "data"), "-o", "json"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip

    assert "Traceback" not in said.stderr
    assert said.returncode in {0, 1}

"""What a person sees when cloudcore cannot start: one sentence with the way out, never a traceback."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PORTS = tuple(w for part in ("api", "broker", "join", "admin") for w in ("--set", f"{part}.port=0"))


async def start(data_dir: Path, *argv: str) -> tuple[int, str]:
    """Run ``cloudcore serve`` until it gives up; returns its exit code and what it said last."""
    words = ("-m", "cloudcore", "serve", "--data-dir", str(data_dir), *PORTS, *argv)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, err = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
    said = err.decode()
    assert "Traceback" not in said
    return process.returncode or 0, said.strip().splitlines()[-1]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize("part", ["api", "broker", "join", "admin"])
async def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path, taken: int, part: str) -> None:
    code, said = await start(tmp_path, "--set", f"{part}.port={taken}")

    assert code == 1
    assert f":{taken}" in said
    assert f"--set {part}.port=" in said


@pytest.mark.parametrize("name", ["cloud.db", "kube.db", "broker.db"])
async def test_a_damaged_database_is_named_and_kept(tmp_path: Path, name: str) -> None:
    rubbish = b"rubbish" * 2000
    (tmp_path / name).write_bytes(rubbish)

    code, said = await start(tmp_path)

    assert code == 1
    assert f"{name} is damaged" in said
    assert "restore a backup" in said
    assert (tmp_path / name).read_bytes() == rubbish


async def test_an_unreachable_postgresql_is_named(tmp_path: Path) -> None:
    code, said = await start(tmp_path, "--database", "postgresql+psycopg://skerry:hunter2@127.0.0.1:1/skerry")

    assert code == 1
    assert "refused" in said
    assert "hunter2" not in said


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    code, said = await start(tmp_path, "--kubeconfig", str(tmp_path / "no.yaml"))

    assert code == 2
    assert "no.yaml" in said


async def test_a_damaged_ca_is_named(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.key").write_text("rubbish")

    code, said = await start(tmp_path)

    assert code == 1
    assert "ca.key is damaged" in said

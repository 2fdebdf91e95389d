"""What `edgecore run` promises on its own machine, with the cloud away: start, readiness, refusals, a clean end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from edgecore import admin
from tests.e2e.conftest import LoneEdge
from tests.e2e.test_edge_alone_keeps_devices import seed
from tests.kit.devices import oven
from tests.kit.platform import command
from tests.kit.process import Daemon
from tests.kit.wait import eventually

START_S = 2.0
IDLE_BYTES, THOUSAND_BYTES = 52 << 20, 90 << 20
DOCS = Path(__file__).parents[2] / "docs" / "reference.md"
FORBIDDEN = ("cryptography", "pydantic_core", "sqlalchemy", "grpc", "aiohttp", "kubernetes", "amqtt", "httpx")


async def refused(daemon: Daemon) -> tuple[int, str]:
    """Start a daemon that cannot run; its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *daemon.argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(10):
        _, words = await process.communicate()
    assert process.returncode is not None
    return process.returncode, words.decode()


async def test_the_ready_line_names_node_and_addresses(lone_edge: LoneEdge) -> None:
    await lone_edge.daemon.start()

    assert lone_edge.daemon.addresses == {
        "node": "gw-1",
        "mqtt": f"mqtt://127.0.0.1:{lone_edge.mqtt_port}",
        "api": f"http://127.0.0.1:{lone_edge.api_port}",
        "kubernetes": f"https://127.0.0.1:{lone_edge.local_port}",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_daemon_with_exit_code_0(lone_edge: LoneEdge, number: int) -> None:
    await lone_edge.daemon.start()

    assert await lone_edge.daemon.stop(number) == 0
    assert "Traceback" not in lone_edge.daemon.log.read_text()


async def test_start_to_ready_and_memory_are_within_budget(lone_edge: LoneEdge) -> None:
    began = asyncio.get_running_loop().time()
    await lone_edge.daemon.start()

    assert asyncio.get_running_loop().time() - began < START_S
    assert lone_edge.daemon.rss_bytes() < IDLE_BYTES


async def test_the_running_process_has_not_loaded_what_an_edge_cannot_afford(lone_edge: LoneEdge) -> None:
    await lone_edge.daemon.start()
    maps = lone_edge.daemon.mapped_files()

    assert [name for name in FORBIDDEN if f"/{name}" in maps] == []


def test_the_daemon_imports_nothing_that_an_edge_cannot_afford() -> None:
    code = "import sys, edgecore.app; print(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert {name.partition(".")[0] for name in modules} & {*FORBIDDEN, "pydantic", "sqlmodel"} == set()


async def test_a_second_daemon_on_the_same_data_is_refused(lone_edge: LoneEdge) -> None:
    await lone_edge.daemon.start()

    code, words = await refused(lone_edge.daemon)

    assert code == 1
    assert f"pid {lone_edge.daemon.pid}" in words
    assert words.count("\n") == 1


async def test_a_damaged_database_is_refused_with_a_sentence_and_kept(lone_edge: LoneEdge) -> None:
    lone_edge.directory.database.write_bytes(b"SQLite format 3\x00" + os.urandom(16384))
    before = lone_edge.directory.database.read_bytes()

    code, words = await refused(lone_edge.daemon)

    assert code == 1
    assert "is damaged" in words
    assert "Traceback" not in words
    assert lone_edge.directory.database.read_bytes() == before


@pytest.mark.parametrize("key", ["device_broker.port", "api.port"])
async def test_a_taken_port_names_the_setting(lone_edge: LoneEdge, key: str) -> None:
    port = lone_edge.api_port if key == "api.port" else lone_edge.mqtt_port
    with socket.create_server(("127.0.0.1", port)):
        code, words = await refused(lone_edge.daemon)

    assert code == 1
    assert key in words
    assert words.count("\n") == 1


async def test_systemd_hears_ready_and_the_watchdog(lone_edge: LoneEdge, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(address))
        sock.setblocking(False)
        lone_edge.daemon.env |= {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
        await lone_edge.daemon.start()
        heard: list[bytes] = []

        def both() -> bool:
            with suppress(BlockingIOError):
                heard.append(sock.recv(100))
            return {b"READY=1", b"WATCHDOG=1"} <= set(heard)

        assert await eventually(both)


async def test_the_commands_see_the_running_daemon(lone_edge: LoneEdge) -> None:
    await lone_edge.daemon.start()
    where = ("--data-dir", str(lone_edge.directory.path), "-o", "json")

    status = msgspec.json.decode(await command("edgecore", "status", *where))
    doctor = msgspec.json.decode(await command("edgecore", "doctor", *where, check=False))

    assert status["daemon"]["pid"] == lone_edge.daemon.pid
    assert status["link"]["connected"] is False
    checks = {check["name"]: check for check in doctor["checks"]}
    assert checks["daemon"]["level"] == "OK"
    assert checks["TCP"]["level"] == "Error"


async def test_killed_at_any_moment_it_starts_again_by_itself(lone_edge: LoneEdge) -> None:
    for _ in range(3):
        await lone_edge.daemon.start()
        await lone_edge.daemon.kill()

    await lone_edge.daemon.start()
    assert lone_edge.daemon.running


async def test_every_metric_is_documented(lone_edge: LoneEdge) -> None:
    await lone_edge.daemon.start()
    text = await asyncio.to_thread(admin.fetch, "127.0.0.1", lone_edge.api_port, "/metrics")
    assert text is not None
    names = [line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE ")]

    assert len(names) > 20
    assert [name for name in names if f"| `{name}` |" not in DOCS.read_text()] == []


async def test_a_thousand_devices_fit_into_the_memory_budget(lone_edge: LoneEdge) -> None:
    devices = [oven(f"kiln-{number}", target="900") for number in range(1000)]
    for number, each in enumerate(devices):
        each["metadata"] |= {"uid": f"u{number}", "generation": 1}
    await seed(lone_edge, *devices)
    await lone_edge.daemon.start()

    def all_there() -> bool:
        return lone_edge.daemon.log.read_text().count("device added") == len(devices)

    await eventually(all_there)
    assert lone_edge.daemon.rss_bytes() < THOUSAND_BYTES

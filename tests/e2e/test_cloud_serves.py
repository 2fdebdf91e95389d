"""`cloudcore serve --data-dir D` and nothing else: what it makes, what it says, what it costs, how it ends."""

import asyncio
import stat
import subprocess
import sys
import urllib.request
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from proto.kit import x509
from proto.kit.clock import SystemClock
from tests.kit.platform import CommandFailed, Platform, command

HEAVY = ("kubernetes", "psycopg", "grpc", "paho", "aiohttp")
RSS_LIMIT_MB = 120


async def get(platform: Platform, path: str) -> str:
    url = f"http://127.0.0.1:{platform.metrics_port}{path}"

    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(fetch)


async def test_it_says_where_it_serves_and_keeps_its_secrets(platform: Platform) -> None:
    assert set(platform.cloud.addresses) == {"api", "broker", "join", "kubelet", "admin"}
    secrets = [platform.kubeconfig, *platform.cloud_dir.glob("*.db"), *(platform.cloud_dir / "pki").glob("*.key")]
    assert len(secrets) >= 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert stat.S_IMODE(platform.cloud_dir.stat().st_mode) == 0o700


async def test_it_is_healthy_ready_and_measured(platform: Platform) -> None:
    assert await get(platform, "/healthz") == "ok\n"
    assert await get(platform, "/readyz") == "ok\n"
    metrics = await get(platform, "/metrics")
    assert 'skerry_cloud_info{version="' in metrics
    assert msgspec.json.decode(await get(platform, "/status"))["ready"] is True


async def test_everything_embedded_stays_small(platform: Platform) -> None:
    await platform.add_edge("gw-1")

    rss = msgspec.json.decode(await get(platform, "/status"))["resident_bytes"] / 1e6

    assert rss <= RSS_LIMIT_MB


async def test_a_second_daemon_on_the_same_data_is_refused(platform: Platform) -> None:
    with pytest.raises(CommandFailed, match=r"serving .* already"):
        await command("cloudcore", "serve", "--data-dir", str(platform.cloud_dir))


async def test_the_settings_of_the_join_endpoint_are_obeyed(tmp_path: Path) -> None:
    sets = ("join.node_days=10", "join.refusals_burst=2", "join.refusals_per_s=0.001")
    async with Platform(tmp_path, cloud_sets=sets) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge("gw-1", start=False)
        join = ("edgecore", "join", "--cloud", f"https://127.0.0.1:{platform.join_port}", "--node", "gw-2")
        spent = (*join, "--token", await platform.token("gw-9"), "--data-dir", str(tmp_path / "gw-2"))
        refusals = [await refusal(*spent) for _ in range(3)]

    left = x509.read_file(edge.data_dir / "pki" / "node.crt").not_after - SystemClock().wall()
    assert timedelta(days=9) < left <= timedelta(days=10)
    assert ["too many requests" in text for text in refusals] == [False, False, True]


async def refusal(*argv: str) -> str:
    """Why a command was refused."""
    with pytest.raises(CommandFailed) as refused:
        await command(*argv)
    return str(refused.value)


async def test_a_signal_ends_it_with_0_and_it_starts_again_as_it_was(platform: Platform) -> None:
    before = platform.kubeconfig.read_bytes()

    assert await platform.stop_cloud() == 0
    await platform.start_cloud()

    assert platform.kubeconfig.read_bytes() == before
    assert "Traceback" not in platform.cloud.log.read_text()


async def test_the_doctor_finds_nothing_wrong(platform: Platform) -> None:
    await platform.add_edge("gw-1")

    out = await command("cloudcore", "doctor", "-o", "json", "--data-dir", str(platform.cloud_dir))

    wrong = [check for check in msgspec.json.decode(out)["checks"] if check["level"] == "Error"]
    assert wrong == []


def test_what_an_embedded_cloud_does_not_use_is_not_loaded() -> None:
    code = f"import sys, cloudcore.app; print([m for m in {HEAVY!r} if m in sys.modules])"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout.strip() == "[]"

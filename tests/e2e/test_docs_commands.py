"""Every command in the documentation runs, page by page, against a live platform."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy import reference
from deploy.kubectl import VERSIONS, provide
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh ?(setup|restore)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages in the order in which a reader meets them; later ones build on the objects that earlier ones made.
PAGES = ("quickstart", "devices", "concepts", "identity", "edgecore", "cloudcore", "operations")
COMMAND_S = 90.0
LISTEN_S = 2.0  # a command that runs until stopped is stopped after this, and must not have ended before


class Shell:
    """Runs documentation's commands as a reader would, with the names that the pages use."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    async def run(self, script: str) -> None:
        process = await self._start(script)
        async with asyncio.timeout(COMMAND_S):
            out, _ = await process.communicate()
        assert process.returncode == 0, f"{script}\n{out.decode()}"

    async def listen(self, script: str) -> None:
        """Start a command that never ends by itself; SIGINT must end it."""
        process = await self._start(script)
        try:
            async with asyncio.timeout(LISTEN_S):
                out, _ = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGINT)
            await process.wait()
            return
        assert process.returncode == 0, f"{script}\n{out.decode()}"

    async def _start(self, script: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-eu",
            "-c",
            script,
            cwd=ROOT,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with Platform(tmp_path) as running:
        await running.start_cloud()
        await running.add_edge("gw-1")
        await running.add_edge("gw-7", start=False)
        yield running


def environment(platform: Platform, edge: Edge, token: str, tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").symlink_to(provide(VERSIONS[-1]))
    path = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SKERRY_")},
        "PATH": ":".join(path),
        "HOME": str(tmp_path),
        "KUBECONFIG": str(platform.kubeconfig),
        "CLOUD": str(platform.cloud_dir),
        "EDGE": str(edge.data_dir),
        "CLOUD_HOST": "127.0.0.1",
        "TOKEN": token,
        "MQTT_PORT": str(edge.mqtt_port),
        "BACKUP": str(tmp_path / "skerry.backup"),
    }


def as_tested(platform: Platform, edge: Edge, script: str) -> str:
    """The page's default ports are this platform's free ones."""
    ports = {"10002": platform.join_port, "9091": platform.metrics_port, "10351": edge.api_port}
    for standard, free in ports.items():
        script = re.sub(rf"(?<=[:]){standard}\b", str(free), script)
    return script


@pytest.mark.timeout(600)
async def test_every_command_in_the_documentation_runs(platform: Platform, tmp_path: Path) -> None:
    edge = platform.edges["gw-1"]
    shell = Shell(environment(platform, edge, await platform.token("gw-1"), tmp_path))
    ran = 0
    for page in PAGES:
        for kind, script in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
            await block(platform, edge, shell, kind, as_tested(platform, edge, script))
            ran += 1
    assert ran > 15


async def block(platform: Platform, edge: Edge, shell: Shell, kind: str, script: str) -> None:
    """One fenced block. ``setup`` starts something that serves, ``restore`` wants the cloud stopped."""
    if kind == "restore":
        await platform.stop_cloud()
        await shell.run(script)
        await platform.start_cloud()
        await edge.connected(30.0)
    elif kind == "setup":
        for line in script.strip().splitlines():
            serves = line.startswith(("cloudcore serve", "edgecore run"))
            await shell.listen(f"{line} --print-settings" if serves else line)
    else:
        await shell.run(script)
        if "deploy/examples" in script:
            await eventually(lambda: known(edge), 20.0)


async def known(edge: Edge) -> bool:
    return bool((await edge.status()).get("devices", {}).get("total"))


@pytest.mark.timeout(120)
async def test_what_the_daemons_measure_is_in_the_reference(platform: Platform) -> None:
    page = reference.TARGET.read_text()
    measured = reference.metrics(await platform.edges["gw-1"].metrics(), await platform.metrics())

    assert len(measured) > 30
    assert [name for name, _, text in measured if len(text) < 5] == []
    assert [name for name, _, _ in measured if f"`{name}`" not in page] == [], "run: python -m deploy.reference"

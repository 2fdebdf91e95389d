"""Every command in the documentation runs, page by page, against a live platform."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deploy import reference
from deploy.kubectl import VERSIONS, provide
from tests.kit import images
from tests.kit.gateway import gateway
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh ?([a-z]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages in the order in which a reader meets them; later ones build on the objects that earlier ones made.
PAGES = ("quickstart", "devices", "concepts", "identity", "edgecore", "cloudcore", "operations")
# Pages about pods: on a gateway with containerd. ``machine`` blocks of install.md: test_package_under_systemd.py.
GATEWAY_PAGES = ("pods", "images", "offline", "troubleshooting")
COMMAND_S = 90.0
POD_ADDRESS = "169.254.20.1"
LISTEN_S = 2.0  # a command that runs until stopped is stopped after this, and must not have ended before


class Shell:
    """Runs documentation's commands as a reader would, with the names that the pages use."""

    def __init__(self, env: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self.env, self.prefix = env, prefix

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
            await self._interrupt(process, script)
            return
        assert process.returncode == 0, f"{script}\n{out.decode()}"

    async def _interrupt(self, process: asyncio.subprocess.Process, script: str) -> None:
        """As a person does: once more when it had only just begun and did not hear."""
        for _ in range(int(COMMAND_S / LISTEN_S)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_S):
                    await process.wait()
                    return
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"SIGINT does not end it: {script}")

    async def _start(self, script: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.prefix,
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
    with (edge.data_dir / "edge.yaml").open("a") as settings:
        settings.write('local_api: {pod_address: ""}\n')  # several tests share this machine's loopback interface
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


class Gateway:
    """The office and one gateway with containerd, as the pages about pods see them."""

    def __init__(self, platform: Platform, edge: Edge, env: dict[str, str]) -> None:
        self.platform, self.edge, self.env = platform, edge, env
        self.office = Shell(env)
        sets = {
            "SKERRY_CLOUD__BROKER": f"mqtts://127.0.0.1:{edge.relay.port}",
            "SKERRY_PODS__RUNTIME": "cri",
            "SKERRY_LOCAL_API__POD_ADDRESS": POD_ADDRESS,
            **dict.fromkeys(("SKERRY_API__PORT", "SKERRY_DEVICE_BROKER__PORT", "SKERRY_LOCAL_API__PORT"), "0"),
        }
        enter, *where = edge.process.argv[: edge.process.argv.index("--") + 1]
        self.there = Shell({**env, **sets}, (enter, f"--wd={ROOT}", *where))
        self._runs: dict[str, Callable[[str], Awaitable[None]]] = {
            "": self.office.run,
            "setup": self._listen,
            "gateway": self.there.run,
            "offline": self._offline,
            "conflict": self._conflict,
        }

    async def block(self, kind: str, script: str) -> None:
        await self._runs[kind](script)

    async def _listen(self, script: str) -> None:
        for line in script.strip().splitlines():
            await self.office.listen(line)

    async def _offline(self, script: str) -> None:
        """The link is cut, and somebody in the office changes the same thing meanwhile."""
        self.edge.cut()
        await self.there.run(script)
        await self.office.run("""kubectl patch configmap web -p '{"data":{"index.html":"changed in the office"}}'""")
        self.edge.mend()
        await self.edge.connected(30.0)

    async def _conflict(self, script: str) -> None:
        found = await eventually(self._conflicts, 30.0)
        self.there.env["CONFLICT"] = found[0]["metadata"]["name"]
        await self.there.run(script)

    async def crash(self) -> None:
        """Run a pod that has crashed once."""
        await self.office.run(f"kubectl apply -f - <<'END'\n{CRASHES}\nEND")
        self.office.env["POD"] = self.there.env["POD"] = "crashes"

        async def restarted() -> bool:
            found = await self.platform.kube.find("/api/v1/namespaces/default/pods/crashes") or {}
            return any(s["restartCount"] for s in (found.get("status") or {}).get("containerStatuses") or [])

        await eventually(restarted, 30.0)

    async def _conflicts(self) -> list[dict[str, Any]]:
        return await self.platform.kube.list("/apis/edge.skerry.io/v1alpha1/writeconflicts")


@pytest.fixture
async def with_pods(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "host", "gw-1", f"local_api.pod_address={POD_ADDRESS}") as edge:
            env = environment(platform, edge, "", tmp_path)
            # On a gateway the data directory is the default one.
            tool = tmp_path / "bin" / "edgecore"
            tool.write_text(DEFAULT_DIRECTORY.format(python=sys.executable))
            tool.chmod(0o755)
            env["ARCHIVE"] = str(images.archive("busybox-example"))
            found = Gateway(platform, edge, env)
            await found.there.run("edgecore images import $ARCHIVE")
            yield found


DEFAULT_DIRECTORY = """#!/bin/bash
words=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do words+=("$1"); shift; done
exec {python} -m edgecore "${{words[@]}}" --data-dir "$EDGE" "$@"
"""
CRASHES = """
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  nodeName: gw-1
  containers: [{name: main, image: "docker.io/library/busybox:1.36", command: [sh, -c, "echo no database; exit 3"]}]
"""


@pytest.mark.timeout(600)
async def test_every_command_about_pods_runs(with_pods: Gateway) -> None:
    site, ran = with_pods, 0
    for page in GATEWAY_PAGES:
        if page == "troubleshooting":
            await site.crash()
        for kind, script in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
            await site.block(kind, script)
            ran += 1
    assert ran > 30


def test_every_page_with_commands_is_run_by_a_test() -> None:
    with_commands = {page.stem for page in (ROOT / "docs").glob("*.md") if BLOCK.search(page.read_text())}

    assert with_commands <= {*PAGES, *GATEWAY_PAGES, "install"}


@pytest.mark.timeout(120)
async def test_what_the_daemons_measure_is_in_the_reference(platform: Platform) -> None:
    page = reference.TARGET.read_text()
    measured = reference.metrics(await platform.edges["gw-1"].metrics(), await platform.metrics())

    assert len(measured) > 30
    assert [name for name, _, text in measured if len(text) < 5] == []
    assert [name for name, _, _ in measured if f"`{name}`" not in page] == [], "run: python -m deploy.reference"

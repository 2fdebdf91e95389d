"""A whole Skerry on loopback: one cloudcore, edges behind relays that can be cut, each a real process in its own folder.

async with Platform(tmp_path) as p:
    await p.start_cloud()
    edge = await p.add_edge("gw-1")
    edge.cut(); edge.mend(); await edge.kill(); await edge.start()
"""

import asyncio
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from edgecore import admin, kinds, offline
from edgecore.data_dir import DataDir
from kubeapi.resources import Resource
from tests.kit.kube import Kube
from tests.kit.ports import free_port
from tests.kit.process import Daemon
from tests.kit.relay import Relay
from tests.kit.wait import eventually

if TYPE_CHECKING:
    from tests.kit.containerd import Host

COMMAND_S = 30.0


class CommandFailed(Exception):
    """A command ended with another code than 0; its words are the text."""


async def command(*argv: str, check: bool = True) -> str:
    """Run ``python -m ARGV`` and return its standard output. Raises CommandFailed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if check and process.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)} ended with {process.returncode}: {err.decode()}{out.decode()}")
    return out.decode()


class Edge:
    """One edgecore. Its connection to the cloud's broker goes through ``relay``."""

    def __init__(self, platform: "Platform", name: str, *sets: str) -> None:
        self.name = name
        self.data_dir = platform.path / name
        self.relay = Relay(platform.broker_port)
        self.mqtt_port = free_port()
        self.api_port = free_port()
        self.local_port = free_port()
        self._platform = platform
        self._sets = sets
        self.host: Host | None = None  # the namespaces it runs in; None: this machine's own
        self.runtime = "none"
        self.broker_scheme = "mqtts"  # "mqtt" where a foreign broker without TLS stands in between
        self.daemon: Daemon | None = None

    async def prepare(self, token: str = "") -> None:
        """Start the relay and join the cloud, with a new token unless one is given; safe to run again."""
        if not self.relay.port:
            await self.relay.start()
        token = token or await self._platform.token(self.name)
        where = f"https://127.0.0.1:{self._platform.join_port}"
        join = ("edgecore", "join", "--cloud", where, "--token", token, "--node", self.name)
        await command(*join, "--data-dir", str(self.data_dir))

    @property
    def process(self) -> Daemon:
        if self.daemon is None:
            sets = [
                f"cloud.broker={self.broker_scheme}://127.0.0.1:{self.relay.port}",
                f"device_broker.port={self.mqtt_port}",
                f"api.port={self.api_port}",
                f"local_api.port={self.local_port}",
                "pods.runtime=none",  # pods outlive their daemon: who wants them ends them
                "local_api.pod_address=''",
                *self._sets,
            ]
            argv = ["edgecore", "run", "--data-dir", str(self.data_dir), *(w for s in sets for w in ("--set", s))]
            self.daemon = Daemon(self.name, argv, self._platform.path / f"{self.name}.log")
        return self.daemon

    async def start(self) -> None:
        await self.process.start()

    async def stop(self) -> int:
        return await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()

    def pause_link(self) -> None:
        """Half-open: no byte passes between edge and broker, nobody is told."""
        self.relay.pause()

    def cut(self) -> None:
        """Reset the connection to the cloud's broker and refuse new ones."""
        self.relay.cut()

    def mend(self) -> None:
        self.relay.mend()

    async def status(self) -> dict[str, Any]:
        """What the daemon says about itself; empty when it does not answer."""
        raw = await asyncio.to_thread(admin.fetch, "127.0.0.1", self.api_port, "/status")
        return msgspec.json.decode(raw) if raw else {}

    def objects(self, resource: Resource) -> list[dict[str, Any]]:
        """The objects of one kind that are on this edge's disk now."""
        return offline.objects(DataDir(self.data_dir), resource)

    def desired(self, device: str, name: str) -> str | None:
        """What the edge's own Device wants of one property; None without one."""
        for each in self.objects(kinds.DEVICE):
            if each["metadata"]["name"] == device:
                entries = {entry["name"]: entry for entry in each["spec"]["properties"]}
                return (entries.get(name, {}).get("desired") or {}).get("value")
        return None

    def reported(self, device: str, name: str) -> str | None:
        """What the edge's own DeviceStatus says of one property; None when it was not reported."""
        for each in self.objects(kinds.DEVICE_STATUS):
            if each["metadata"]["name"] == device:
                twins = {twin["propertyName"]: twin for twin in each.get("status", {}).get("twins", [])}
                return (twins.get(name, {}).get("reported") or {}).get("value")
        return None

    async def metrics(self) -> str:
        raw = await asyncio.to_thread(admin.fetch, "127.0.0.1", self.api_port, "/metrics")
        return raw.decode() if raw else ""

    async def connected(self, timeout_s: float = 15.0) -> None:
        """Wait until the link is up."""

        async def up() -> bool:
            return bool((await self.status()).get("link", {}).get("connected"))

        try:
            await eventually(up, timeout_s)
        except AssertionError as error:
            raise AssertionError(
                f"{self.name} is not connected: {await self.status()}\n{self.process.tail()}"
            ) from error

    async def drained(self, timeout_s: float = 15.0) -> None:
        """Wait until nothing waits for the cloud."""

        async def empty() -> bool:
            link = (await self.status()).get("link", {})
            return bool(link.get("connected")) and not link["pending_messages"] and not link["pending_states"]

        await eventually(empty, timeout_s)

    async def close(self) -> None:
        if self.daemon is not None:
            await self.daemon.kill()
        await self.relay.close()


class Platform:
    """One cloud and its edges under ``path``; every process is ended on leaving."""

    def __init__(self, path: Path, *, cloud_sets: tuple[str, ...] = (), cloud_args: tuple[str, ...] = ()) -> None:
        self.path = path
        self.cloud_dir = path / "cloud"
        self.api_port, self.broker_port, self.join_port, self.metrics_port = (free_port() for _ in range(4))
        sets = (
            f"api.port={self.api_port}",
            f"broker.port={self.broker_port}",
            f"join.port={self.join_port}",
            f"admin.port={self.metrics_port}",
            "kubelet.port=0",
            *cloud_sets,
        )
        argv = ["cloudcore", "serve", "--data-dir", str(self.cloud_dir), *(w for s in sets for w in ("--set", s))]
        self.cloud = Daemon("cloudcore", [*argv, *cloud_args], path / "cloudcore.log")
        self.edges: dict[str, Edge] = {}
        self._kube: Kube | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for edge in self.edges.values():
            await edge.close()
        if self._kube is not None:
            await self._kube.close()
        await self.cloud.kill()

    @property
    def kubeconfig(self) -> Path:
        return self.cloud_dir / "admin.kubeconfig"

    @property
    def kube(self) -> Kube:
        """The administrator at the embedded API."""
        if self._kube is None:
            self._kube = Kube(self.kubeconfig)
        return self._kube

    async def start_cloud(self) -> None:
        await self.cloud.start()

    async def stop_cloud(self) -> int:
        return await self.cloud.stop()

    async def kill_cloud(self) -> None:
        await self.cloud.kill()

    async def metrics(self) -> str:
        """What cloudcore measures, in Prometheus' text format."""
        raw = await asyncio.to_thread(admin.fetch, "127.0.0.1", self.metrics_port, "/metrics")
        return raw.decode() if raw else ""

    async def token(self, node: str = "") -> str:
        """A new join token."""
        named = ("--node", node) if node else ()
        out = await command("cloudcore", "token", "create", *named, "--data-dir", str(self.cloud_dir))
        return out.split()[-1] if out.strip() else ""

    async def add_edge(self, name: str, *sets: str, start: bool = True) -> Edge:
        """Join a new node and, unless told otherwise, run it until its link is up."""
        edge = Edge(self, name, *sets)
        self.edges[name] = edge
        await edge.prepare()
        if start:
            await edge.start()
            await edge.connected()
        return edge

"""What a promise needs to be held to a runtime: the runtime, the node around it, and short ways to run pods."""

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from edgecore.pods.runtime import (
    Container,
    ContainerConfig,
    ContainerRuntime,
    Resources,
    SandboxConfig,
    Security,
    State,
)
from proto.kit.channels import Channels
from tests.kit.wait import eventually

Dial = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
FOREVER = ("sleep", "1000")
CAPABILITIES = ("CHOWN", "NET_RAW", "NET_BIND_SERVICE", "SYS_ADMIN")
CAPABILITY_BITS = {"CHOWN": 0, "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_ADMIN": 21}
_numbers = itertools.count(1)


@dataclasses.dataclass
class Node:
    """The machine that the runtime is on. ``own_network``: each pod has an address of its own, and host ports."""

    image: str  # a busybox image that is present
    cgroup: str  # below which pods may be put
    dial: Dial  # open a TCP connection as a process of the node would
    run: Callable[..., str]  # run a command as a process of the node would; returns its output
    reopen: Callable[[], ContainerRuntime]  # another client of the same runtime
    own_network: bool = True


class World:
    """A runtime under test, with the pods of one test; all of them are removed at its end."""

    def __init__(self, runtime: ContainerRuntime, node: Node, folder: Path) -> None:
        self.runtime, self.node, self.folder = runtime, node, folder
        self._sandboxes: list[str] = []

    def sandbox(self, **more: Any) -> SandboxConfig:
        """A pod with a name and uid of its own."""
        name = f"pod-{next(_numbers)}"
        uid = f"uid-{self.folder.name}-{name}"
        filled: dict[str, Any] = {
            "namespace": "tests",
            "name": name,
            "uid": uid,
            "hostname": "" if more.get("host_network") else name,
            "log_directory": str(self.folder / "logs" / name),
            "cgroup_parent": f"{self.node.cgroup}/pod-{uid}",
            "labels": {"io.kubernetes.pod.uid": uid},
        }
        return SandboxConfig(**{**filled, **more})

    def container(self, *command: str, **more: Any) -> ContainerConfig:
        filled: dict[str, Any] = {
            "name": "main",
            "image": self.node.image,
            "command": command,
            "log_path": "main/0.log",
        }
        return ContainerConfig(**{**filled, **more})

    async def run_sandbox(self, config: SandboxConfig) -> str:
        sandbox_id = await self.runtime.run_sandbox(config)
        self._sandboxes.append(sandbox_id)
        return sandbox_id

    async def add(self, sandbox_id: str, sandbox: SandboxConfig, *command: str, **more: Any) -> str:
        """Start a container in a sandbox."""
        container_id = await self.runtime.create_container(sandbox_id, self.container(*command, **more), sandbox)
        await self.runtime.start_container(container_id)
        return container_id

    async def run(self, *command: str, pod: SandboxConfig | None = None, **more: Any) -> str:
        """Start a pod of one container; ``more`` are fields of the container."""
        config = pod or self.sandbox()
        return await self.add(await self.run_sandbox(config), config, *(command or FOREVER), **more)

    async def ended(self, container_id: str, timeout_s: float = 10.0) -> Container:
        """The container's status once it has ended."""

        async def status() -> Container | None:
            found = await self.runtime.container_status(container_id)
            return found if found.state is State.EXITED else None

        found = await eventually(status, timeout_s)
        assert found is not None
        return found

    async def output(self, *command: str, pod: SandboxConfig | None = None, **more: Any) -> str:
        """What a container that ends by itself wrote to its log, both streams, without the log's own words."""
        container_id = await self.run(*command, pod=pod, **more)
        return self.log_text(await self.ended(container_id))

    async def shell(self, script: str, pod: SandboxConfig | None = None, **more: Any) -> str:
        return await self.output("sh", "-c", script, pod=pod, **more)

    async def says(self, container_id: str, *command: str) -> str:
        """The output of a command run inside."""
        done = await self.runtime.exec_sync(container_id, command, 10.0)
        assert done.exit_code == 0, done
        return done.stdout.decode()

    def log_lines(self, container: Container) -> list[tuple[str, str, str]]:
        """The log as (stream, tag, text)."""
        lines = (line.split(" ", 3) for line in self.raw_log(container).splitlines())
        return [(stream, tag, text) for _, stream, tag, text in lines]

    def raw_log(self, container: Container) -> str:
        return Path(container.log_path).read_text()

    def log_text(self, container: Container) -> str:
        return "".join(text + ("\n" if tag == "F" else "") for _, tag, text in self.log_lines(container))

    async def close(self) -> None:
        async def remove(sandbox_id: str) -> None:
            await self.runtime.stop_sandbox(sandbox_id)
            await self.runtime.remove_sandbox(sandbox_id)

        await asyncio.gather(*map(remove, self._sandboxes))
        await self.runtime.close()


async def everything(channels: Channels) -> dict[int, bytes]:
    """Read until the end; what came, by channel."""
    heard: dict[int, bytearray] = {}
    async with asyncio.timeout(20):
        while (chunk := await channels.read()) is not None:
            heard.setdefault(chunk.channel, bytearray()).extend(chunk.data)
    await channels.close()
    return {channel: bytes(data) for channel, data in heard.items()}


__all__ = ["CAPABILITIES", "CAPABILITY_BITS", "FOREVER", "Node", "Resources", "Security", "World", "everything"]

"""A container runtime in memory: the port kept honestly, every call recorded, faults on demand. Nothing really runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from edgecore.pods.runtime import (
    Auth,
    Container,
    ContainerConfig,
    ExecResult,
    Filesystem,
    Health,
    Image,
    NoSuch,
    Resources,
    RuntimeAway,
    RuntimeRefused,
    Sandbox,
    SandboxConfig,
    State,
    Usage,
    Version,
)
from proto.kit.channels import Channels
from proto.kit.clock import Clock

PRESENT = Image("sha256:1", tags=("localhost/skerry/busybox:1",), size_bytes=1000)


class MemoryRuntime:
    """``away`` makes every call raise; ``refuse`` maps a method to why it refuses; ``stubborn`` ignores SIGTERM."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sandboxes_: dict[str, Sandbox] = {}
        self.containers_: dict[str, Container] = {}
        self.calls: list[str] = []
        self.away = ""
        self.refuse: dict[str, str] = {}
        self.stubborn = False
        self.gate: asyncio.Event | None = None  # run_sandbox waits for it
        self.used: list[Usage] = []
        self._hints: asyncio.Queue[str] = asyncio.Queue()
        self._count = 0

    def made(self, *names: str) -> list[str]:
        """The recorded calls of these methods, in order."""
        return [call for call in self.calls if call.partition(" ")[0] in names]

    def end(self, container_id: str, code: int = 0, reason: str = "") -> None:
        """Let a container end by itself."""
        one = self.containers_[container_id]
        reason = reason or ("Completed" if code == 0 else "Error")
        ended = replace(one, state=State.EXITED, exit_code=code, reason=reason, finished_at_ns=self._now_ns())
        self.containers_[container_id] = ended
        self._hints.put_nowait(self.sandboxes_[one.sandbox_id].uid)

    def power_cut(self) -> None:
        """Nothing runs any more; the records are left."""
        for one in [c for c in self.containers_.values() if c.state is State.RUNNING]:
            self.end(one.id, 255, "Unknown")
        self.sandboxes_ = {i: replace(s, state=State.EXITED) for i, s in self.sandboxes_.items()}

    # the port

    async def version(self) -> Version:
        await self._call("version")
        return Version("memory", "1")

    async def health(self) -> Health:
        await self._call("health")
        return Health(ready=True, network_ready=True)

    async def sandboxes(self) -> list[Sandbox]:
        await self._call("sandboxes")
        return [replace(s, ips=()) for s in self.sandboxes_.values()]

    async def containers(self) -> list[Container]:
        await self._call("containers")
        return [
            replace(c, started_at_ns=0, finished_at_ns=0, exit_code=0, reason="") for c in self.containers_.values()
        ]

    async def sandbox_status(self, sandbox_id: str) -> Sandbox:
        await self._call("sandbox_status")
        if sandbox_id not in self.sandboxes_:
            raise NoSuch(sandbox_id)
        return self.sandboxes_[sandbox_id]

    async def container_status(self, container_id: str) -> Container:
        await self._call("container_status")
        if container_id not in self.containers_:
            raise NoSuch(container_id)
        return self.containers_[container_id]

    async def run_sandbox(self, config: SandboxConfig) -> str:
        await self._call("run_sandbox", f"{config.name} {config.attempt}")
        if self.gate is not None:
            await self.gate.wait()
        key = f"s-{config.uid}-{config.attempt}"
        if key in self.sandboxes_:
            raise RuntimeRefused(f"name {key} is reserved")
        self.sandboxes_[key] = Sandbox(
            key,
            config.namespace,
            config.name,
            config.uid,
            config.attempt,
            State.RUNNING,
            self._now_ns(),
            config.labels,
            config.annotations,
            ips=("10.0.0.9",),
        )
        return key

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._call("stop_sandbox", sandbox_id)
        if sandbox_id in self.sandboxes_:
            for one in [c for c in self.containers_.values() if c.sandbox_id == sandbox_id]:
                if one.state is State.RUNNING:
                    self.end(one.id, 137, "Error")
            self.sandboxes_[sandbox_id] = replace(self.sandboxes_[sandbox_id], state=State.EXITED)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._call("remove_sandbox", sandbox_id)
        self.sandboxes_.pop(sandbox_id, None)
        for one in [c for c in self.containers_.values() if c.sandbox_id == sandbox_id]:
            del self.containers_[one.id]

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        await self._call("create_container", f"{sandbox.name}/{config.name} {config.attempt}")
        if self.sandboxes_[sandbox_id].state is not State.RUNNING:
            raise RuntimeRefused("the sandbox does not run")
        self._count += 1
        key = f"c{self._count}"
        self.containers_[key] = Container(
            key,
            sandbox_id,
            config.name,
            config.attempt,
            State.CREATED,
            self._now_ns(),
            config.image,
            config.image,
            config.labels,
            config.annotations,
        )
        return key

    async def start_container(self, container_id: str) -> None:
        one = self.containers_[container_id]
        try:
            await self._call("start_container", f"{one.name} {one.attempt}")
        except RuntimeRefused as error:
            ended = replace(one, state=State.EXITED, exit_code=128, reason="StartError", message=str(error))
            self.containers_[container_id] = ended
            raise
        self.containers_[container_id] = replace(one, state=State.RUNNING, started_at_ns=self._now_ns())

    async def stop_container(self, container_id: str, grace_s: int) -> None:
        await self._call("stop_container", f"{container_id} {grace_s}")
        if self.stubborn:
            await self._clock.sleep(grace_s)
        one = self.containers_.get(container_id)
        if one is not None and one.state is State.RUNNING:
            self.end(container_id, 137 if self.stubborn else 0)

    async def remove_container(self, container_id: str) -> None:
        await self._call("remove_container", container_id)
        self.containers_.pop(container_id, None)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        await self._call("update_resources", f"{container_id} {resources}")

    async def reopen_log(self, container_id: str) -> None:
        await self._call("reopen_log", container_id)

    async def usage(self) -> list[Usage]:
        await self._call("usage")
        return self.used

    async def changes(self) -> AsyncIterator[str]:
        while True:
            yield await self._hints.get()

    async def exec_sync(self, container_id: str, argv: tuple[str, ...], timeout_s: float) -> ExecResult:
        await self._call("exec_sync", f"{container_id} {' '.join(argv)} {timeout_s:g}")
        return ExecResult(0, b"", b"")

    async def exec(
        self, container_id: str, argv: tuple[str, ...], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Channels:
        raise RuntimeRefused("nothing runs here")

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Channels:
        raise RuntimeRefused("nothing runs here")

    async def port_forward(self, sandbox_id: str, port: int) -> Channels:
        raise RuntimeRefused("nothing runs here")

    async def images(self) -> list[Image]:
        await self._call("images")
        return [PRESENT]

    async def image(self, reference: str) -> Image | None:
        await self._call("image")
        return PRESENT if reference in (*PRESENT.tags, PRESENT.id) else None

    async def pull(self, reference: str, auth: Auth | None = None) -> str:
        await self._call("pull", reference)
        raise RuntimeRefused(f"{reference}: not found", "ErrImagePull")

    async def remove_image(self, image_id: str) -> None:
        await self._call("remove_image", image_id)

    async def import_archive(self, archive: Path) -> list[str]:
        raise RuntimeRefused("nothing is imported here")

    async def image_filesystem(self) -> Filesystem:
        await self._call("image_filesystem")
        return Filesystem("/", 0)

    async def close(self) -> None:
        pass

    async def _call(self, name: str, what: str = "") -> None:
        if self.away:
            raise RuntimeAway(self.away)
        if what:
            self.calls.append(f"{name} {what}")
        await asyncio.sleep(0)
        if name in self.refuse:
            raise RuntimeRefused(self.refuse[name])

    def _now_ns(self) -> int:
        return int(self._clock.wall().timestamp() * 1_000_000_000)

"""``ProcessRuntime``: the port with plain processes. Rules of the port are in edgecore/pods/runtime.py, ours in README.md."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from edgecore.pods import poddirs, usage
from edgecore.pods import runtime as port
from edgecore.pods.process import images, plans, records, wire
from edgecore.pods.process.changes import Changes
from edgecore.pods.process.channels import AttachChannels, FailedChannels, FdChannels
from edgecore.pods.process.images import ImageStore
from edgecore.pods.process.records import ContainerRecord, Disk, PodRecord
from edgecore.pods.process.sandboxes import Sandboxes
from edgecore.pods.process.shim import cgroup
from edgecore.pods.runtime import NoSuch, RuntimeRefused, State
from proto.kit.channels import DATA, ERROR, STDERR, STDOUT, Channels
from proto.kit.clock import Clock

Json = dict[str, Any]
SUBNET = "10.89.0.0/24"
START_S = 60.0
KILL_S = 20.0
VERSION_S = 5.0
EXEC_OUTPUT_BYTES = 64 << 10


class ProcessRuntime:
    """A ContainerRuntime. ``prefix`` comes before what this starts, as ``nsenter --net=...``: the node's own network is there."""

    def __init__(self, data_dir: Path, clock: Clock, *, subnet: str = SUBNET, prefix: tuple[str, ...] = ()) -> None:
        folder = data_dir / "process"
        (folder / "sandboxes").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._clock = clock
        self._memory = poddirs.plans_home(data_dir)
        self._disk = Disk(folder)
        self._sandboxes = Sandboxes(self._disk, subnet, self._now_ns, prefix)
        self._images = ImageStore(data_dir / "images", clock, self._disk.chains)
        self._where = cgroup.Hierarchies()
        self._changes = Changes(clock)
        self._version = _version() if shutil.which("bwrap") else ""  # known before the first status is written
        self._tidying = asyncio.Lock()
        self._tidy_done = False

    def _now_ns(self) -> int:
        return int(self._clock.wall().timestamp() * 1_000_000) * 1000

    async def version(self) -> port.Version:
        return port.Version("bubblewrap", self._version or await asyncio.to_thread(_version))

    async def health(self) -> port.Health:
        try:
            _bwrap()
        except RuntimeRefused as error:
            return port.Health(ready=False, network_ready=True, reason="NoBubblewrap", message=str(error))
        if os.geteuid() != 0:
            return port.Health(ready=False, network_ready=True, reason="NotRoot", message="edgecore is not root")
        if shutil.which("ip") is None:
            said = "ip (iproute2) is not installed: only pods with hostNetwork can be run"
            return port.Health(ready=True, network_ready=False, reason="NoIproute", message=said)
        return port.Health(ready=True, network_ready=True)

    # Pods and containers

    async def sandboxes(self) -> list[port.Sandbox]:
        await self._tidy()
        return [records.sandbox(folder, full=False) for folder in self._disk.pod_folders()]

    async def containers(self) -> list[port.Container]:
        await self._tidy()
        found = []
        for pod in self._disk.pod_folders():
            for folder in self._disk.container_folders(pod):
                with suppress(NoSuch):
                    found.append(self._seen(folder))
        return found

    async def sandbox_status(self, sandbox_id: str) -> port.Sandbox:
        return records.sandbox(self._disk.pod(sandbox_id), full=True)

    async def container_status(self, container_id: str) -> port.Container:
        return self._seen(self._disk.container(container_id))

    async def run_sandbox(self, config: port.SandboxConfig) -> str:
        await self._tidy()
        folder = await self._sandboxes.run(config, _bwrap())
        self._changes.began(folder, config.uid)
        return folder.name

    async def stop_sandbox(self, sandbox_id: str) -> None:
        with suppress(NoSuch):
            await self._sandboxes.stop(self._disk.pod(sandbox_id))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        with suppress(NoSuch):
            await self._sandboxes.remove(self._disk.pod(sandbox_id))

    async def create_container(self, sandbox_id: str, config: port.ContainerConfig, sandbox: port.SandboxConfig) -> str:
        pod = self._disk.pod(sandbox_id)
        if not wire.lives(pod):
            raise RuntimeRefused(f"sandbox {sandbox_id} has ended")
        image = images.of(self._images, config.image)
        identity = secrets.token_hex(32)
        path = f"{sandbox.cgroup_parent}/{identity}"
        log = str(Path(sandbox.log_directory, config.log_path)) if sandbox.log_directory and config.log_path else ""
        plan = plans.container(config, sandbox, image, self._images.root(image), cgroup=path, log=log)
        if image.id == images.HOST:
            plan["hidden"] = [*plans.HOST_HIDDEN, str(self._disk.pods.parents[1])]
        told = replace(config, command=(), args=(), env=())  # these are in the plan only: secrets may be among them
        record = ContainerRecord(
            identity, self._now_ns(), told, image.id, image.chain, plans.stop_signal(image), path, log
        )
        folder = pod / "containers" / identity
        folder.mkdir(parents=True, mode=0o700)
        records.save_plan(folder, self._memory, msgspec.json.encode(plan))
        await asyncio.to_thread(records.save, folder / records.RECORD, msgspec.json.encode(record))
        return identity

    async def start_container(self, container_id: str) -> None:
        folder = self._disk.container(container_id)
        await wire.ask(folder.parents[1], {"op": "start", "id": container_id}, START_S)

    async def stop_container(self, container_id: str, grace_s: int) -> None:
        try:
            folder = self._disk.container(container_id)
        except NoSuch:
            return
        if self._seen(folder).state is not State.RUNNING:
            return
        number = records.load(folder / records.RECORD, ContainerRecord).stop_signal
        with suppress(wire.Gone):
            async with wire.conversation(folder.parents[1]) as connection:
                connection.send({"op": "watch"})
                if grace_s > 0:
                    connection.send({"op": "signal", "id": container_id, "signal": number, "everything": False})
                    if await self._ended(connection, folder, grace_s):
                        return
                connection.send({"op": "signal", "id": container_id, "signal": signal.SIGKILL, "everything": True})
                if not await self._ended(connection, folder, KILL_S):
                    raise RuntimeRefused("the container's processes do not end: the kernel holds them")

    async def _ended(self, connection: wire.Connection, folder: Path, within_s: float) -> bool:
        """Wait until the container has ended; False when it has not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._seen(folder).state is State.RUNNING:
                    if (await connection.receive(None))[0] is None:
                        break
                return True
        return False

    async def remove_container(self, container_id: str) -> None:
        try:
            folder = self._disk.container(container_id)
        except NoSuch:
            return
        await self.stop_container(container_id, 0)
        await asyncio.to_thread(records.delete, folder)

    async def update_resources(self, container_id: str, resources: port.Resources) -> None:
        folder = self._disk.container(container_id)
        record = records.load(folder / records.RECORD, ContainerRecord)
        limits = plans.limits(resources)
        if self._seen(folder).state is State.RUNNING:
            refused = cgroup.limit(self._where, record.cgroup, limits)
            if refused:
                raise RuntimeRefused(f"the kernel refuses the limits: {'; '.join(refused)}")
        await asyncio.to_thread(records.limit_plan, folder, limits)

    async def reopen_log(self, container_id: str) -> None:
        await wire.ask(self._disk.container(container_id).parents[1], {"op": "reopen", "id": container_id})

    async def usage(self) -> list[port.Usage]:
        return await asyncio.to_thread(self._usage)

    def _usage(self) -> list[port.Usage]:
        found = []
        for pod in self._disk.pod_folders():
            for folder in self._disk.container_folders(pod):
                with suppress(NoSuch):
                    if self._seen(folder).state is State.RUNNING:
                        record = records.load(folder / records.RECORD, ContainerRecord)
                        cpu_ns, memory = cgroup.usage(self._where, record.cgroup)
                        written = usage.of(folder / "upper")
                        found.append(port.Usage(record.id, self._now_ns(), cpu_ns, memory, written))
        return found

    def changes(self) -> AsyncIterator[str]:
        return self._changes.watch(self._pods)

    def _pods(self) -> list[tuple[Path, str]]:
        return [
            (folder, records.load(folder / records.RECORD, PodRecord).config.uid) for folder in self._disk.pod_folders()
        ]

    def _seen(self, folder: Path) -> port.Container:
        """Return the container; what ended with its supervisor is ended here. Raises NoSuch."""
        found = records.container(folder)
        if found.state is State.RUNNING and not wire.lives(folder.parents[1]):
            self._sandboxes.bury(folder.parents[1])
            return records.container(folder)
        return found

    async def _tidy(self) -> None:
        """Once a process: what a kill or a power cut left."""
        async with self._tidying:
            if not self._tidy_done:
                await asyncio.to_thread(self._sandboxes.bury_all)
                self._tidy_done = True

    # Calls

    async def exec_sync(self, container_id: str, argv: tuple[str, ...], timeout_s: float) -> port.ExecResult:
        heard = {STDOUT: bytearray(), STDERR: bytearray()}
        status: Json = {}
        channels = await self._exec(container_id, argv, stdin=False, tty=False)
        try:
            async with asyncio.timeout(timeout_s):
                while (chunk := await channels.read()) is not None:
                    if chunk.channel == ERROR:
                        status = msgspec.json.decode(chunk.data)
                    elif len(held := heard[chunk.channel]) < EXEC_OUTPUT_BYTES:
                        held += chunk.data[: EXEC_OUTPUT_BYTES - len(held)]
        except TimeoutError as error:
            await channels.kill()
            raise TimeoutError(f"the command did not end within {timeout_s:g} s") from error
        finally:
            await channels.close()
        code = 0 if status.get("status") == "Success" else int(status["details"]["causes"][0]["message"])
        return port.ExecResult(code, bytes(heard[STDOUT]), bytes(heard[STDERR]))

    async def exec(
        self, container_id: str, argv: tuple[str, ...], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Channels:
        del stdout, stderr  # who does not listen gets nothing to read; the command may write all the same
        return await self._exec(container_id, argv, stdin=stdin, tty=tty)

    async def _exec(self, container_id: str, argv: tuple[str, ...], *, stdin: bool, tty: bool) -> FdChannels:
        folder = self._disk.container(container_id)
        if self._seen(folder).state is not State.RUNNING:
            raise RuntimeRefused(f"container {container_id} does not run")
        connection = wire.Connection(folder.parents[1])
        ours: list[int] = []
        theirs: list[int] = []
        console: socket.socket | None = None
        try:
            if tty:
                console, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                theirs.append(other.detach())
            else:
                source, sink = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), -1)
                (out, out_end), (err, err_end) = os.pipe(), os.pipe()
                ours, theirs = [sink, out, err], [source, out_end, err_end]
            connection.send({"op": "exec", "id": container_id, "argv": list(argv), "tty": tty}, theirs)
            for fd in theirs:
                os.close(fd)
            theirs = []
            wire.checked(await connection.receive())
            if console is not None:
                _, (master, *_), _, _ = socket.recv_fds(console, 1, 1)
                channels = FdChannels({master: STDOUT}, os.dup(master), connection)
                channels.terminal = master
                return channels
            return FdChannels({ours[1]: STDOUT, ours[2]: STDERR}, ours[0], connection)
        except BaseException:
            connection.close()
            for fd in (*ours, *theirs):
                if fd >= 0:
                    os.close(fd)
            raise
        finally:
            if console is not None:
                console.close()

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Channels:
        del tty  # the container's own word counts
        folder = self._disk.container(container_id)
        record = records.load(folder / records.RECORD, ContainerRecord)
        connection = wire.Connection(folder.parents[1])
        try:
            connection.send({"op": "attach", "id": container_id})
            answer, fds = wire.checked(await connection.receive())
        except BaseException:
            connection.close()
            raise
        held = dict(zip(answer["streams"], fds, strict=True))
        sources = {
            held.pop(name): channel for name, channel in (("stdout", STDOUT), ("stderr", STDERR)) if name in held
        }
        for fd in [fd for fd, channel in sources.items() if not (stdout if channel == STDOUT else stderr)]:
            del sources[fd]
            os.close(fd)
        sink = held.pop("stdin", -1)
        terminal = held.pop("terminal", -1)
        if terminal >= 0:
            sink = os.dup(terminal)
        if not stdin and sink >= 0:
            os.close(sink)
            sink = -1
        channels = AttachChannels(sources, sink, connection)
        channels.terminal = terminal
        if record.config.stdin_once:
            channels.input_over = lambda: connection.send({"op": "input_over", "id": container_id})
        return channels

    async def port_forward(self, sandbox_id: str, port: int) -> Channels:  # the port's own word
        folder = self._disk.pod(sandbox_id)
        async with wire.conversation(folder) as connection:
            connection.send({"op": "connect", "port": port})
            try:
                _, (fd, *_) = wire.checked(await connection.receive())
            except wire.Gone:
                raise
            except RuntimeRefused as error:
                return FailedChannels(f"port {port} of the pod: {error}")
        return FdChannels({fd: DATA}, fd, None)

    # Images

    async def images(self) -> list[port.Image]:
        return self._images.images()

    async def image(self, reference: str) -> port.Image | None:
        return self._images.image(reference)

    async def pull(self, reference: str, auth: port.Auth | None = None) -> str:
        if reference in images.HOST_NAMES:
            return images.HOST
        return await self._images.pull(reference, auth)

    async def remove_image(self, image_id: str) -> None:
        await self._images.remove(image_id)

    async def import_archive(self, archive: Path) -> list[str]:
        return await self._images.take(archive)

    async def image_filesystem(self) -> port.Filesystem:
        return await asyncio.to_thread(self._images.filesystem)

    async def close(self) -> None:
        self._changes.close()
        if self._memory is not None:
            with suppress(OSError):  # no container, no folder
                self._memory.rmdir()


def _version() -> str:
    try:
        done = subprocess.run([_bwrap(), "--version"], capture_output=True, timeout=VERSION_S, check=False, text=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeRefused(f"bubblewrap (bwrap) does not run: {error}") from error
    return done.stdout.strip().rpartition(" ")[2] or "unknown"


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise RuntimeRefused("bubblewrap (bwrap) is not installed")
    return found

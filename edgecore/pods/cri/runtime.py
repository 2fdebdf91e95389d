"""``CriRuntime``: the port over a CRI v1 socket. Rules of the port are in edgecore/pods/runtime.py."""

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from edgecore.pods import runtime as port
from edgecore.pods.cri import archive, drivers, messages, pause, streams
from edgecore.pods.cri.changes import Changes
from edgecore.pods.cri.streams import Dial
from edgecore.pods.cri.wire import QUICK_S, Connection, TooLong, Unimplemented
from edgecore.pods.runtime import NoSuch, RuntimeRefused
from proto.gen import cri_pb2 as pb
from proto.kit.channels import Channels
from proto.kit.clock import Clock
from proto.kit.log import Logger

log = Logger("cri")
SANDBOX_S = 120.0  # network set-up of a loaded gateway included
CONTAINER_S = 60.0
MARGIN_S = 30.0  # beyond a grace period: SIGKILL, unmounting
EXEC_MARGIN_S = 10.0
PULL_S = 3600.0  # a slow uplink; ``_check_alive`` notices a hanging runtime long before
PULL_CHECK_S = 30.0
EXEC_OUTPUT_BYTES = 64 << 10
KILLED, ERROR = 137, "Error"
CAUSE_S = 0.2

Answer = TypeVar("Answer", bound=Message)


class CriRuntime:
    """A ContainerRuntime. ``dial`` opens the TCP connection to the runtime's own streaming server (exec, attach, port-forward)."""

    def __init__(self, socket: Path, clock: Clock, *, dial: Dial = streams.dial, quick_s: float = QUICK_S) -> None:
        self._wire = Connection(socket, quick_s)
        self._clock = clock
        self._dial = dial
        self._driver = ""  # of cgroups; "" not asked yet
        self._pause_asked = False
        self._sandbox_of: dict[str, str] = {}  # container id -> sandbox id; a status does not say it
        self._asked_twice: set[str] = set()
        self._changes = Changes(self._wire, clock)

    @property
    def socket(self) -> Path:
        return self._wire.socket

    async def version(self) -> port.Version:
        said = await self._wire.call("Version", pb.VersionRequest(version="v1"), pb.VersionResponse)
        return port.Version(said.runtime_name, said.runtime_version)

    async def health(self) -> port.Health:
        said = await self._wire.call("Status", pb.StatusRequest(), pb.StatusResponse)
        return messages.health({condition.type: condition for condition in said.status.conditions})

    async def cgroup_driver(self) -> str:
        """Return ``systemd`` or ``cgroupfs``; asked once. Callers need not care: ``cgroup_parent`` is always a path."""
        if not self._driver:
            try:
                said = await self._wire.call("RuntimeConfig", pb.RuntimeConfigRequest(), pb.RuntimeConfigResponse)
            except Unimplemented:  # containerd before 2.0 shows its own configuration instead
                status = await self._wire.call("Status", pb.StatusRequest(verbose=True), pb.StatusResponse)
                self._driver = drivers.of_containerd(status.info.get("config", ""))
            else:
                self._driver = "systemd" if said.linux.cgroup_driver == pb.SYSTEMD else "cgroupfs"
        return self._driver

    # Pods and containers

    async def sandboxes(self) -> list[port.Sandbox]:
        said = await self._wire.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        return [messages.sandbox(item) for item in said.items]

    async def containers(self) -> list[port.Container]:
        said = await self._wire.call("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        self._sandbox_of = {item.id: item.pod_sandbox_id for item in said.containers}
        self._asked_twice &= self._sandbox_of.keys()
        return [messages.container(item) for item in said.containers]

    async def sandbox_status(self, sandbox_id: str) -> port.Sandbox:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=self._changes.wants(sandbox_id))
        said = await self._wire.call("PodSandboxStatus", request, pb.PodSandboxStatusResponse)
        if request.verbose:
            self._changes.told(sandbox_id, said.status.state, said.info)
        return messages.sandbox(said.status, messages.addresses(said.status))

    async def container_status(self, container_id: str) -> port.Container:
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=self._changes.wants(container_id))
        said = await self._wire.call("ContainerStatus", request, pb.ContainerStatusResponse)
        if request.verbose:
            self._changes.told(container_id, said.status.state, said.info)
        if said.status.id not in self._sandbox_of:
            await self.containers()
        if said.status.exit_code == KILLED and said.status.reason == ERROR and container_id not in self._asked_twice:
            # Of a container that went beyond its memory, the end is told first and the cause a moment later.
            self._asked_twice.add(container_id)
            await self._clock.sleep(CAUSE_S)
            said = await self._wire.call("ContainerStatus", request, pb.ContainerStatusResponse)
        return messages.container_status(said.status, self._sandbox_of.get(said.status.id, ""))

    async def run_sandbox(self, config: port.SandboxConfig) -> str:
        driver = await self.cgroup_driver()
        await self._bring_pause()
        with _tellable():
            asked = messages.sandbox_config(config, driver)
            request = pb.RunPodSandboxRequest(config=asked, runtime_handler=config.runtime_handler)
        said = await self._wire.call("RunPodSandbox", request, pb.RunPodSandboxResponse, SANDBOX_S)
        sandbox_id: str = said.pod_sandbox_id
        self._changes.began(sandbox_id, config.uid, sandbox=True)
        return sandbox_id

    async def _bring_pause(self) -> None:
        """Bring the image that every pod begins with, where it is missing: a gateway may reach no registry."""
        if self._pause_asked:
            return
        self._pause_asked = True
        try:
            status = await self._wire.call("Status", pb.StatusRequest(verbose=True), pb.StatusResponse)
        except RuntimeRefused as error:  # it does not tell which one it wants: then it has it, or says so by itself
            log.debug("sandbox image not asked for", reason=error)
            return
        reference, machine = pause.wanted(status.info.get("config", "")), pause.of_this_machine()
        if not reference or machine is None or await self.image(reference) is not None:
            return
        with tempfile.NamedTemporaryFile(prefix="skerry-pause-") as file:
            file.write(pause.archive(reference, machine))
            file.flush()
            try:
                await archive.import_archive(self, self.socket, Path(file.name))
            except RuntimeRefused as error:  # then the runtime fetches its own, or says why it cannot
                log.info("sandbox image not brought", image=reference, reason=error)
            else:
                log.info("sandbox image brought", image=reference)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        with suppress(NoSuch):
            request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
            await self._wire.call("StopPodSandbox", request, pb.StopPodSandboxResponse, SANDBOX_S)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        with suppress(NoSuch):
            request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
            await self._wire.call("RemovePodSandbox", request, pb.RemovePodSandboxResponse, SANDBOX_S)

    async def create_container(self, sandbox_id: str, config: port.ContainerConfig, sandbox: port.SandboxConfig) -> str:
        driver = await self.cgroup_driver()
        with _tellable():
            request = pb.CreateContainerRequest(
                pod_sandbox_id=sandbox_id,
                config=messages.container_config(config, sandbox),
                sandbox_config=messages.sandbox_config(sandbox, driver),
            )
        if sandbox.log_directory and config.log_path:  # CRI leaves the container's own folder to its caller
            await asyncio.to_thread(_make_folder, Path(sandbox.log_directory, config.log_path).parent)
        said = await self._wire.call("CreateContainer", request, pb.CreateContainerResponse, CONTAINER_S)
        container_id: str = said.container_id
        self._sandbox_of[container_id] = sandbox_id
        self._changes.created(container_id, sandbox.uid)
        return container_id

    async def start_container(self, container_id: str) -> None:
        request = pb.StartContainerRequest(container_id=container_id)
        await self._wire.call("StartContainer", request, pb.StartContainerResponse, CONTAINER_S)
        self._changes.began(container_id)

    async def stop_container(self, container_id: str, grace_s: int) -> None:
        with suppress(NoSuch):
            request = pb.StopContainerRequest(container_id=container_id, timeout=grace_s)
            await self._wire.call("StopContainer", request, pb.StopContainerResponse, grace_s + MARGIN_S)

    async def remove_container(self, container_id: str) -> None:
        with suppress(NoSuch):
            request = pb.RemoveContainerRequest(container_id=container_id)
            await self._wire.call("RemoveContainer", request, pb.RemoveContainerResponse, CONTAINER_S)
        self._sandbox_of.pop(container_id, None)

    async def update_resources(self, container_id: str, resources: port.Resources) -> None:
        """Change limits; CRI takes 0 for "as it was", so a limit once set can be raised and not taken away (as in Kubernetes)."""
        request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=messages.resources(resources))
        await self._wire.call("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse, CONTAINER_S)

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self._wire.call("ReopenContainerLog", request, pb.ReopenContainerLogResponse)

    async def usage(self) -> list[port.Usage]:
        request = pb.ListContainerStatsRequest()
        said = await self._wire.call("ListContainerStats", request, pb.ListContainerStatsResponse)
        return [messages.usage(stats) for stats in said.stats]

    def changes(self) -> AsyncIterator[str]:
        return self._changes.watch()

    # Calls

    async def exec_sync(self, container_id: str, argv: tuple[str, ...], timeout_s: float) -> port.ExecResult:
        request = pb.ExecSyncRequest(container_id=container_id, cmd=argv, timeout=max(1, math.ceil(timeout_s)))
        try:
            said = await self._wire.call("ExecSync", request, pb.ExecSyncResponse, request.timeout + EXEC_MARGIN_S)
        except port.RuntimeAway as error:
            if not isinstance(error, TooLong):
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                await self.version()  # raises RuntimeAway where the runtime hangs, not the command
            raise TimeoutError(f"the command did not end within {request.timeout} s") from error
        return port.ExecResult(said.exit_code, said.stdout[:EXEC_OUTPUT_BYTES], said.stderr[:EXEC_OUTPUT_BYTES])

    async def exec(
        self, container_id: str, argv: tuple[str, ...], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Channels:
        request = pb.ExecRequest(
            container_id=container_id, cmd=argv, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr and not tty
        )
        said = await self._wire.call("Exec", request, pb.ExecResponse)
        shape = streams.Shape(stdin=stdin, stdout=stdout, stderr=stderr and not tty, tty=tty)
        return await streams.remote_command(self._dial, said.url, shape)

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Channels:
        request = pb.AttachRequest(
            container_id=container_id, stdin=stdin, tty=tty, stdout=stdout, stderr=stderr and not tty
        )
        said = await self._wire.call("Attach", request, pb.AttachResponse)
        shape = streams.Shape(stdin=stdin, stdout=stdout, stderr=stderr and not tty, tty=tty)
        return await streams.remote_command(self._dial, said.url, shape)

    async def port_forward(self, sandbox_id: str, port: int) -> Channels:  # the port's own word
        request = pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=[port])
        said = await self._wire.call("PortForward", request, pb.PortForwardResponse)
        return await streams.port_forward(self._dial, said.url, port)

    # Images

    async def images(self) -> list[port.Image]:
        said = await self._wire.image_call("ListImages", pb.ListImagesRequest(), pb.ListImagesResponse)
        return [messages.image(item) for item in said.images]

    async def image(self, reference: str) -> port.Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        try:
            said = await self._wire.image_call("ImageStatus", request, pb.ImageStatusResponse)
        except NoSuch:
            return None
        return messages.image(said.image) if said.HasField("image") else None

    async def pull(self, reference: str, auth: port.Auth | None = None) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=reference), auth=messages.auth(auth))
        try:
            async with asyncio.TaskGroup() as group:
                alive = group.create_task(self._check_alive())
                said = await self._wire.image_call("PullImage", request, pb.PullImageResponse, PULL_S)
                alive.cancel()
        except ExceptionGroup as group_error:
            error = group_error.exceptions[0]
            if isinstance(error, RuntimeRefused):
                error.reason = error.reason or "ErrImagePull"
            raise error from None
        present = await self.image(said.image_ref)
        return present.id if present else said.image_ref

    async def _check_alive(self) -> None:
        """Raises RuntimeAway once the runtime hangs."""
        while True:
            await self._clock.sleep(PULL_CHECK_S)
            await self.version()

    async def remove_image(self, image_id: str) -> None:
        with suppress(NoSuch):
            request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image_id))
            await self._wire.image_call("RemoveImage", request, pb.RemoveImageResponse, CONTAINER_S)

    async def import_archive(self, archive_path: Path) -> list[str]:
        return await archive.import_archive(self, self._wire.socket, archive_path)

    async def image_filesystem(self) -> port.Filesystem:
        said = await self._wire.image_call("ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse)
        if not said.image_filesystems:
            raise RuntimeRefused("the container runtime does not say where its images are")
        first = said.image_filesystems[0]
        return port.Filesystem(first.fs_id.mountpoint, first.used_bytes.value, first.inodes_used.value)

    async def close(self) -> None:
        self._changes.close()
        await self._wire.close()


@contextmanager
def _tellable() -> Iterator[None]:
    """Settings that have no place in CRI's messages (a number too large, a text that is none) are refused, not a crash."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise RuntimeRefused(f"the container runtime cannot be told this: {error}") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeRefused(f"cannot make the folder of the logs, {path}: {error.strerror}") from error

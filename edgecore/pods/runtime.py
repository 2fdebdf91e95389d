"""PORT ContainerRuntime: what runs containers. Implementations: cri (any CRI v1 socket) and process (bubblewrap).

The words are CRI's. Everything is plain data; times are nanoseconds since 1970 as the runtime says them (0: not yet).
One conformance suite holds both (tests/conformance/runtime).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from proto.kit.channels import Channels
from proto.kit.errors import Retryable, Terminal


class RuntimeAway(Retryable):
    """The runtime does not answer (not running, or hanging): every call may raise it."""

    code = "RuntimeAway"


class RuntimeRefused(Terminal):
    """The runtime says no: the text is for people. ``reason`` is CamelCase where one is known, such as ErrImagePull."""

    code = "RuntimeRefused"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NoSuch(RuntimeRefused):
    """The sandbox, container or image does not exist."""


class State(Enum):
    """Of a container; a sandbox is RUNNING (ready) or EXITED (not ready)."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path seen in a container; ``propagation`` is None, HostToContainer or Bidirectional as in Kubernetes."""

    container_path: str
    host_path: str
    readonly: bool = False
    propagation: str = "None"


@dataclass(frozen=True, slots=True)
class Device:
    """A device node given to a container; ``permissions`` of rwm."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits; 0 is none."""

    cpu_shares: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 100_000
    memory_bytes: int = 0
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class Security:
    """Security context of a container (of a sandbox: ids, seccomp and privileged only)."""

    uid: int | None = None
    user_name: str = ""  # from the image, when it is no number
    gid: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    privileged: bool = False
    readonly_rootfs: bool = False
    no_new_privileges: bool = False
    capabilities_add: tuple[str, ...] = ()  # without CAP_; ALL allowed
    capabilities_drop: tuple[str, ...] = ()
    seccomp: str = ""  # "" the runtime's own choice, RuntimeDefault, Unconfined, or a path on the host
    unmasked_proc: bool = False
    selinux: tuple[str, str, str, str] = ("", "", "", "")  # user, role, type, level


@dataclass(frozen=True, slots=True)
class Dns:
    """What /etc/resolv.conf of the pod says; all empty: the host's own."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A hostPort."""

    container_port: int
    host_port: int
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """A pod to the runtime. ``attempt`` grows when the sandbox of the same pod is made again."""

    namespace: str
    name: str
    uid: str
    attempt: int = 0
    hostname: str = ""  # "" with host_network
    log_directory: str = ""
    cgroup_parent: str = ""
    dns: Dns = Dns()
    ports: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_pid: bool = False
    sysctls: dict[str, str] = field(default_factory=dict)
    security: Security = Security()
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """A container to the runtime; ``log_path`` is relative to the sandbox's log directory."""

    name: str
    image: str  # an image id or reference that is present
    attempt: int = 0
    command: tuple[str, ...] = ()  # () the image's entrypoint
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    security: Security = Security()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod as the runtime has it. ``ips`` only from ``sandbox_status``."""

    id: str
    namespace: str
    name: str
    uid: str
    attempt: int
    state: State
    created_at_ns: int
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the runtime has it. What stands below ``annotations`` is filled by ``container_status`` alone."""

    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: State
    created_at_ns: int
    image: str = ""  # as it was asked for
    image_ref: str = ""  # its id or digest
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""  # Completed, Error, OOMKilled ...
    message: str = ""
    log_path: str = ""  # absolute


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the runtime's store. ``uid`` None and ``user_name`` "": the image names no user (root)."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size_bytes: int = 0
    uid: int | None = None
    user_name: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials for one pull; not shown in logs."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Where images rest."""

    path: str
    used_bytes: int
    inodes_used: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Figures of one container. CPU is cumulative."""

    container_id: str
    at_ns: int
    cpu_ns: int
    memory_bytes: int  # working set
    writable_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The outcome of ``exec_sync``; output is cut at 64 KiB each."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Version:
    """Shown as ``name://version`` in the Node."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether pods can be run now; the texts are for conditions."""

    ready: bool
    network_ready: bool
    reason: str = ""
    message: str = ""


class ContainerRuntime(Protocol):
    """Every method may raise RuntimeAway and RuntimeRefused; stop and remove are idempotent, a missing one is no error.

    Every call is bounded in time by the implementation. Containers survive this process; a new one finds them all.
    """

    async def version(self) -> Version: ...
    async def health(self) -> Health: ...

    # pods and containers
    async def sandboxes(self) -> list[Sandbox]: ...
    async def containers(self) -> list[Container]: ...
    async def sandbox_status(self, sandbox_id: str) -> Sandbox: ...  # raises NoSuch
    async def container_status(self, container_id: str) -> Container: ...  # raises NoSuch
    async def run_sandbox(self, config: SandboxConfig) -> str: ...
    async def stop_sandbox(self, sandbox_id: str) -> None: ...  # kills what still runs in it, frees its network
    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str: ...
    async def start_container(self, container_id: str) -> None: ...
    async def stop_container(
        self, container_id: str, grace_s: int
    ) -> None: ...  # SIGTERM (or STOPSIGNAL), then SIGKILL
    async def remove_container(self, container_id: str) -> None: ...
    async def update_resources(self, container_id: str, resources: Resources) -> None: ...
    async def reopen_log(self, container_id: str) -> None: ...
    async def usage(self) -> list[Usage]: ...

    def changes(self) -> AsyncIterator[str]:
        """Yield a pod's uid soon after something of it changed by itself (a container ended). May miss some: look again anyway.

        Ends never; waits while the runtime is away.
        """
        ...

    # calls: Channels numbered as in proto.kit.channels; exec and attach end with a metav1.Status on ERROR
    async def exec_sync(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float
    ) -> ExecResult: ...  # raises TimeoutError
    async def exec(
        self, container_id: str, argv: tuple[str, ...], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Channels: ...
    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Channels: ...
    async def port_forward(self, sandbox_id: str, port: int) -> Channels: ...

    # images
    async def images(self) -> list[Image]: ...
    async def image(self, reference: str) -> Image | None: ...
    async def pull(self, reference: str, auth: Auth | None = None) -> str: ...  # returns the image's id
    async def remove_image(self, image_id: str) -> None: ...
    async def import_archive(self, archive: Path) -> list[str]: ...  # OCI layout or docker-save tar; returns references
    async def image_filesystem(self) -> Filesystem: ...

    async def close(self) -> None: ...

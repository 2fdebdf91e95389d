"""The port's words as CRI messages and back. Pure."""

from collections.abc import Mapping

from edgecore.pods import runtime as port
from proto.gen import cri_pb2 as pb

UID_LABEL = "io.kubernetes.pod.uid"

# What Kubernetes hides and protects in /proc and /sys of a container that is not privileged (ProcMount: Default).
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PROPAGATION = {
    "None": pb.PROPAGATION_PRIVATE,
    "HostToContainer": pb.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}
STATES = {
    pb.CONTAINER_CREATED: port.State.CREATED,
    pb.CONTAINER_RUNNING: port.State.RUNNING,
    pb.CONTAINER_EXITED: port.State.EXITED,
}


def cgroup_parent(path: str, driver: str) -> str:
    """Return the cgroup ``path`` as the driver wants it; systemd names nested slices in one word, as kubelet spells them."""
    if driver != "systemd" or not path.strip("/") or path.endswith(".slice"):
        return path
    return "-".join(part.replace("-", "_") for part in path.strip("/").split("/")) + ".slice"


def sandbox_config(config: port.SandboxConfig, driver: str = "") -> pb.PodSandboxConfig:
    security = pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(config),
        supplemental_groups=config.security.supplemental_groups,
        privileged=config.security.privileged,
        readonly_rootfs=config.security.readonly_rootfs,
        selinux_options=_selinux(config.security),
        seccomp=_seccomp(config.security),
        seccomp_profile_path=_old_seccomp(config.security),
    )
    _ids(security, config.security)
    dns = config.dns
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt
        ),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=pb.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
        port_mappings=[_port(mapping) for mapping in config.ports],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=cgroup_parent(config.cgroup_parent, driver), security_context=security, sysctls=config.sysctls
        ),
    )


def container_config(config: port.ContainerConfig, sandbox: port.SandboxConfig) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=pb.ImageSpec(image=config.image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in config.env],
        mounts=[_mount(mount) for mount in config.mounts],
        devices=[
            pb.Device(container_path=d.container_path, host_path=d.host_path, permissions=d.permissions)
            for d in config.devices
        ],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=resources(config.resources), security_context=_security(config.security, sandbox)
        ),
    )


def resources(limits: port.Resources) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(
        cpu_shares=limits.cpu_shares,
        cpu_quota=limits.cpu_quota_us,
        cpu_period=limits.cpu_period_us,
        memory_limit_in_bytes=limits.memory_bytes,
        oom_score_adj=limits.oom_score_adj,
    )


def auth(credentials: port.Auth | None) -> pb.AuthConfig | None:
    if credentials is None:
        return None
    return pb.AuthConfig(
        username=credentials.username,
        password=credentials.password,
        identity_token=credentials.identity_token,
        registry_token=credentials.registry_token,
    )


def _security(security: port.Security, sandbox: port.SandboxConfig) -> pb.LinuxContainerSecurityContext:
    open_proc = security.privileged or security.unmasked_proc
    context = pb.LinuxContainerSecurityContext(
        privileged=security.privileged,
        namespace_options=_namespaces(sandbox),
        selinux_options=_selinux(security),
        run_as_username=security.user_name,
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        no_new_privs=security.no_new_privileges,
        masked_paths=() if open_proc else MASKED_PATHS,
        readonly_paths=() if open_proc else READONLY_PATHS,
        seccomp=_seccomp(security),
        seccomp_profile_path=_old_seccomp(security),
    )
    if not security.privileged:  # CRI forbids both at once; privileged means all of them
        context.capabilities.add_capabilities.extend(security.capabilities_add)
        context.capabilities.drop_capabilities.extend(security.capabilities_drop)
    _ids(context, security)
    return context


def _ids(context: pb.LinuxSandboxSecurityContext | pb.LinuxContainerSecurityContext, security: port.Security) -> None:
    if security.uid is not None:
        context.run_as_user.value = security.uid
    if security.gid is not None:
        context.run_as_group.value = security.gid


def _namespaces(config: port.SandboxConfig) -> pb.NamespaceOption:
    own_pid = pb.POD if config.share_pid else pb.CONTAINER
    return pb.NamespaceOption(
        network=pb.NODE if config.host_network else pb.POD,
        pid=pb.NODE if config.host_pid else own_pid,
        ipc=pb.NODE if config.host_ipc else pb.POD,
    )


def _selinux(security: port.Security) -> pb.SELinuxOption | None:
    if not any(security.selinux):
        return None
    user, role, kind, level = security.selinux
    return pb.SELinuxOption(user=user, role=role, type=kind, level=level)


def _seccomp(security: port.Security) -> pb.SecurityProfile | None:
    if not security.seccomp:
        return None
    kinds = {"RuntimeDefault": pb.SecurityProfile.RuntimeDefault, "Unconfined": pb.SecurityProfile.Unconfined}
    if security.seccomp in kinds:
        return pb.SecurityProfile(profile_type=kinds[security.seccomp])
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=security.seccomp)


def _old_seccomp(security: port.Security) -> str:
    names = {"": "", "RuntimeDefault": "runtime/default", "Unconfined": "unconfined"}
    return names.get(security.seccomp, f"localhost/{security.seccomp}")


def _port(mapping: port.PortMapping) -> pb.PortMapping:
    return pb.PortMapping(
        protocol=pb.Protocol.Value(mapping.protocol),
        container_port=mapping.container_port,
        host_port=mapping.host_port,
        host_ip=mapping.host_ip,
    )


def _mount(mount: port.Mount) -> pb.Mount:
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        propagation=PROPAGATION[mount.propagation],
    )


def sandbox(item: pb.PodSandbox | pb.PodSandboxStatus, ips: tuple[str, ...] = ()) -> port.Sandbox:
    return port.Sandbox(
        id=item.id,
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        uid=item.metadata.uid,
        attempt=item.metadata.attempt,
        state=port.State.RUNNING if item.state == pb.SANDBOX_READY else port.State.EXITED,
        created_at_ns=item.created_at,
        labels=dict(item.labels),
        annotations=dict(item.annotations),
        ips=ips,
    )


def addresses(status: pb.PodSandboxStatus) -> tuple[str, ...]:
    network = status.network
    return tuple(ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip)


def container(item: pb.Container) -> port.Container:
    return port.Container(
        id=item.id,
        sandbox_id=item.pod_sandbox_id,
        name=item.metadata.name,
        attempt=item.metadata.attempt,
        state=STATES.get(item.state, port.State.UNKNOWN),
        created_at_ns=item.created_at,
        image=item.image.image,
        image_ref=item.image_ref,
        labels=dict(item.labels),
        annotations=dict(item.annotations),
    )


def container_status(status: pb.ContainerStatus, sandbox_id: str) -> port.Container:
    return port.Container(
        id=status.id,
        sandbox_id=sandbox_id,
        name=status.metadata.name,
        attempt=status.metadata.attempt,
        state=STATES.get(status.state, port.State.UNKNOWN),
        created_at_ns=status.created_at,
        image=status.image.image,
        image_ref=status.image_ref,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
        started_at_ns=max(0, status.started_at),  # some runtimes say the year 1 for never
        finished_at_ns=max(0, status.finished_at),
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        log_path=status.log_path,
    )


def image(item: pb.Image) -> port.Image:
    return port.Image(
        id=item.id,
        tags=tuple(item.repo_tags),
        digests=tuple(item.repo_digests),
        size_bytes=item.size,
        uid=item.uid.value if item.HasField("uid") else None,
        user_name=item.username,
        pinned=item.pinned,
    )


def usage(stats: pb.ContainerStats) -> port.Usage:
    memory = stats.memory
    working_set = memory.working_set_bytes if memory.HasField("working_set_bytes") else memory.usage_bytes
    return port.Usage(
        container_id=stats.attributes.id,
        at_ns=stats.cpu.timestamp or stats.memory.timestamp,
        cpu_ns=stats.cpu.usage_core_nano_seconds.value,
        memory_bytes=working_set.value,
        writable_bytes=stats.writable_layer.used_bytes.value,
    )


def health(conditions: Mapping[str, pb.RuntimeCondition]) -> port.Health:
    runtime, network = (conditions.get(name, pb.RuntimeCondition()) for name in ("RuntimeReady", "NetworkReady"))
    worst = network if runtime.status else runtime
    said = pb.RuntimeCondition() if runtime.status and network.status else worst
    return port.Health(runtime.status, network.status, said.reason, said.message)

"""From what the port takes to what a pod's supervisor carries out (pure but for questions about host paths)."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

from edgecore.pods.process import boot
from edgecore.pods.process.images import HOST, Record
from edgecore.pods.process.shim import linux, seccomp
from edgecore.pods.runtime import ContainerConfig, Resources, RuntimeRefused, SandboxConfig, Security

Json = dict[str, Any]
# what a container may do unless its spec says otherwise: containerd's list
DEFAULT_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_PIDS = 4096  # of one container: a fork bomb stays in it
HOST_HIDDEN = ("/tmp", "/var/tmp", "/run")  # noqa: S108  empty and writable in a container that stands on the host's root


def pod(config: SandboxConfig, folder: Path, bwrap: str, network: Json | None, lock: Path) -> Json:
    """Return pod.json. Raises RuntimeRefused for what this runtime cannot do."""
    if config.runtime_handler:
        raise RuntimeRefused(f"this node runs plain processes: it has no runtime handler {config.runtime_handler!r}")
    if config.host_network and any(name.startswith("net.") for name in config.sysctls):
        raise RuntimeRefused("sysctls of the network need a network of the pod's own")
    files = {"/etc/resolv.conf": str(folder / "resolv.conf")}
    if config.hostname:
        files["/etc/hostname"] = str(folder / "hostname")
    return {
        "hostname": config.hostname,
        "network": network,
        "network_lock": str(lock),
        "host_ipc": config.host_ipc,
        "share_pid": config.share_pid and not config.host_pid,
        "sysctls": config.sysctls,
        "ports": [dataclasses.asdict(port) for port in config.ports],
        "files": files,
        "shm": "/dev/shm" if config.host_ipc else str(folder / "shm"),  # noqa: S108
        "own_shm": not config.host_ipc,
        "sys": str(folder / "sys") if network else "/sys",
        "cgroup": f"{config.cgroup_parent}/{folder.name}",
        "bwrap": bwrap,
        "python": boot.argv(),
        "roots": boot.roots(),
    }


def resolv_conf(config: SandboxConfig, host: Path = Path("/etc/resolv.conf")) -> str:
    """Return the text of the pod's /etc/resolv.conf."""
    dns = config.dns
    if not (dns.servers or dns.searches or dns.options):
        return host.read_text(errors="replace") if host.exists() else ""
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def container(
    config: ContainerConfig, sandbox: SandboxConfig, image: Record, lower: Path, *, cgroup: str, log: str
) -> Json:
    """Return plan.json. Raises RuntimeRefused."""
    for mount in config.mounts:
        if mount.propagation == "Bidirectional":
            raise RuntimeRefused(f"mount {mount.container_path}: Bidirectional propagation needs a container runtime")
        if not Path(mount.host_path).exists():
            raise RuntimeRefused(f"mount {mount.container_path}: {mount.host_path} does not exist")
    security = config.security
    env = {"PATH": PATH}
    env |= dict(word.split("=", 1) for word in image.config.Env or () if "=" in word)
    env |= {"TERM": "xterm"} if config.tty else {}
    env |= dict(config.env)
    return {
        "lower": str(lower),
        "hidden": [],
        "argv": _command(config, image),
        "env": list(env.items()),
        "cwd": config.working_dir or image.config.WorkingDir or "/",
        **_user(security, image),
        "keep": capabilities(security),
        "seccomp": _filtered(security),
        "readonly": security.readonly_rootfs or image.id == HOST,
        "privileged": security.privileged,
        "unmasked": security.unmasked_proc or security.privileged,
        "mounts": [[m.container_path, m.host_path, m.readonly, m.propagation or "None"] for m in config.mounts],
        "devices": [[d.container_path, d.host_path] for d in config.devices],
        "own_pid": not (sandbox.host_pid or sandbox.share_pid),
        "cgroup": cgroup,
        "limits": limits(config.resources),
        "oom_score_adj": config.resources.oom_score_adj,
        "log": log,
        "stdin": config.stdin,
        "stdin_once": config.stdin_once,
        "tty": config.tty,
    }


def limits(resources: Resources) -> dict[str, int]:
    return {
        "cpu_shares": resources.cpu_shares,
        "cpu_quota_us": resources.cpu_quota_us,
        "cpu_period_us": resources.cpu_period_us,
        "memory_bytes": resources.memory_bytes,
        "pids": MAX_PIDS,
    }


def capabilities(security: Security) -> int:
    """Return the bits that the container keeps; -1 is all. Raises RuntimeRefused."""
    if security.privileged:
        return -1
    add, drop = (
        {_capability(name) for name in names} for names in (security.capabilities_add, security.capabilities_drop)
    )
    kept = set(linux.CAPABILITIES if "ALL" in add else DEFAULT_CAPABILITIES)
    kept = (set() if "ALL" in drop else kept - drop) | (add - {"ALL"})
    if "ALL" in add:
        kept |= set(linux.CAPABILITIES) - drop
    return sum(1 << linux.CAPABILITIES.index(name) for name in kept)


def stop_signal(image: Record) -> int:
    """Return the number of the image's STOPSIGNAL; SIGTERM for one that is none."""
    word = image.config.StopSignal.upper()
    if word.isdecimal():
        return int(word) if 0 < int(word) < signal.NSIG else int(signal.SIGTERM)
    name = word if word.startswith("SIG") else f"SIG{word}"
    found = getattr(signal, name, signal.SIGTERM)
    return int(found) if isinstance(found, signal.Signals) else int(signal.SIGTERM)


def _capability(name: str) -> str:
    plain = name.upper().removeprefix("CAP_")
    if plain != "ALL" and plain not in linux.CAPABILITIES:
        raise RuntimeRefused(f"capability {name!r} is not known")
    return plain


def _command(config: ContainerConfig, image: Record) -> list[str]:
    entry = list(config.command) or list(image.config.Entrypoint or ())
    args = list(config.args) or ([] if config.command else list(image.config.Cmd or ()))
    argv = [*entry, *args]
    if not argv:
        raise RuntimeRefused(f"no command: neither the pod nor image {config.image} says what to run")
    return argv


def _user(security: Security, image: Record) -> Json:
    user = ""
    if security.uid is None:
        user = security.user_name or image.config.User
    return {"uid": security.uid, "user": user, "gid": security.gid, "groups": list(security.supplemental_groups)}


def _filtered(security: Security) -> bool:
    """Whether calls are filtered. Raises RuntimeRefused for a profile that this runtime does not read."""
    if security.seccomp.startswith("/"):
        raise RuntimeRefused(f"seccomp profile {security.seccomp}: this runtime has RuntimeDefault and Unconfined only")
    wanted = security.seccomp == "RuntimeDefault" and not security.privileged
    if wanted and os.uname().machine not in seccomp.ARCHITECTURES:
        raise RuntimeRefused(f"seccomp RuntimeDefault: this runtime has no profile for {os.uname().machine}")
    return wanted

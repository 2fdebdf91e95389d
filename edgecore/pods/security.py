"""Security contexts: what the pod and the container ask for, as the runtime takes it (pure)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecore.pods.runtime import Image, Security
from edgecore.pods.unready import Unready, bad_config

Json = dict[str, Any]
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def of_container(pod: Json, container: Json, image: Image, seccomp_root: Path) -> Security:
    """Return the container's security. Raises Unready for what cannot be kept."""
    spec = pod.get("spec") or {}
    own, shared = container.get("securityContext") or {}, spec.get("securityContext") or {}
    merged = {**shared, **own}
    refuse(spec, merged, container["name"])
    uid, user_name = _user(merged, image)
    _check_non_root(merged, uid, user_name, container["name"])
    capabilities = own.get("capabilities") or {}
    privileged = bool(own.get("privileged"))
    return Security(
        uid=uid,
        user_name=user_name,
        gid=merged.get("runAsGroup"),
        supplemental_groups=groups(shared),
        privileged=privileged,
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        capabilities_add=tuple(_plain(c) for c in capabilities.get("add") or ()),
        capabilities_drop=tuple(_plain(c) for c in capabilities.get("drop") or ()),
        seccomp="Unconfined" if privileged else seccomp(merged.get("seccompProfile"), seccomp_root),
        unmasked_proc=privileged or own.get("procMount") == "Unmasked",
        selinux=_selinux(merged.get("seLinuxOptions")),
    )


def of_sandbox(pod: Json, seccomp_root: Path) -> Security:
    """Return what holds for the sandbox: privileged when one of its containers is."""
    spec = pod.get("spec") or {}
    shared = spec.get("securityContext") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    privileged = any((c.get("securityContext") or {}).get("privileged") for c in containers)
    profile = seccomp(shared.get("seccompProfile"), seccomp_root) or "RuntimeDefault"
    return Security(
        uid=shared.get("runAsUser"),
        gid=shared.get("runAsGroup"),
        supplemental_groups=groups(shared),
        privileged=privileged,
        seccomp="Unconfined" if privileged else profile,
        selinux=_selinux(shared.get("seLinuxOptions")),
    )


def sysctls(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the pod's sysctls. Raises Unready for one that reaches beyond the pod."""
    out = {}
    for item in (spec.get("securityContext") or {}).get("sysctls") or ():
        name = str(item.get("name", "")).replace("/", ".")
        if name not in SAFE_SYSCTLS:
            raise Unready("SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted', volumes=True)
        if name.startswith("net.") and spec.get("hostNetwork"):
            raise Unready(
                "SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host net enabled', volumes=True
            )
        if name.startswith(IPC_SYSCTLS) and spec.get("hostIPC"):
            raise Unready(
                "SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host ipc enabled', volumes=True
            )
        out[name] = str(item.get("value", ""))
    return out


def groups(shared: Mapping[str, Any]) -> tuple[int, ...]:
    """Return fsGroup and the supplemental groups, each once."""
    own = [] if shared.get("fsGroup") is None else [shared["fsGroup"]]
    return tuple(dict.fromkeys([*own, *(shared.get("supplementalGroups") or ())]))


def seccomp(profile: Any, root: Path) -> str:
    """Return the profile as the runtime names it; "" is its own choice. Raises Unready."""
    kind = (profile or {}).get("type") or ""
    if kind != "Localhost":
        return kind if kind in {"RuntimeDefault", "Unconfined"} else ""
    name = str(profile.get("localhostProfile") or "")
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise bad_config(f"seccomp profile {name!r} must be a relative path below {root}")
    return str(root / name)


def refuse(spec: Mapping[str, Any], merged: Mapping[str, Any], name: str) -> None:
    """Raises Unready for settings that a runtime here would silently not keep."""
    if spec.get("hostUsers") is False:
        raise bad_config("hostUsers: false (user namespaces) is not supported on this node")
    if (merged.get("appArmorProfile") or {}).get("type") == "Localhost":
        raise bad_config(f"container {name} wants an AppArmor profile of its own: not supported on this node")
    if merged.get("supplementalGroupsPolicy") == "Strict":
        raise bad_config("supplementalGroupsPolicy: Strict is not supported on this node")


def _user(merged: Mapping[str, Any], image: Image) -> tuple[int | None, str]:
    wanted = merged.get("runAsUser")
    if wanted is not None:
        return int(wanted), ""
    if image.uid is not None:
        return image.uid, ""
    return (None, image.user_name) if image.user_name else (0, "")


def _check_non_root(merged: Mapping[str, Any], uid: int | None, user_name: str, name: str) -> None:
    if not merged.get("runAsNonRoot"):
        return
    if uid == 0 and merged.get("runAsUser") == 0:
        raise bad_config(f"container's runAsUser breaks non-root policy (container: {name})")
    if uid == 0:
        raise bad_config(f"container has runAsNonRoot and image will run as root (container: {name})")
    if uid is None:
        raise bad_config(
            f"container has runAsNonRoot and image has non-numeric user ({user_name}), cannot verify user is non-root"
            f" (container: {name})"
        )


def _plain(capability: Any) -> str:
    return str(capability).upper().removeprefix("CAP_")


def _selinux(options: Any) -> tuple[str, str, str, str]:
    held = options or {}
    return tuple(str(held.get(key) or "") for key in ("user", "role", "type", "level"))  # type: ignore[return-value]

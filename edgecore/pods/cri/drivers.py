"""Who makes cgroups, as containerd's own configuration says it: for versions that do not answer RuntimeConfig."""

import msgspec
from msgspec import field


class _Options(msgspec.Struct):
    systemd_cgroup: bool = field(name="SystemdCgroup", default=False)


class _Runtime(msgspec.Struct):
    options: _Options | None = None


class _Containerd(msgspec.Struct):
    default_runtime: str = field(name="defaultRuntimeName", default="runc")
    runtimes: dict[str, _Runtime] | None = None


class _Config(msgspec.Struct):
    containerd: _Containerd | None = None
    systemd_cgroup: bool = field(name="systemdCgroup", default=False)


def of_containerd(config: str) -> str:
    """Return ``systemd`` or ``cgroupfs`` from the "config" of a verbose Status; cgroupfs, the default, when it cannot be read."""
    try:
        read = msgspec.json.decode(config, type=_Config)
    except msgspec.DecodeError:
        return "cgroupfs"
    containerd = read.containerd or _Containerd()
    runtime = (containerd.runtimes or {}).get(containerd.default_runtime) or _Runtime()
    return "systemd" if read.systemd_cgroup or (runtime.options or _Options()).systemd_cgroup else "cgroupfs"

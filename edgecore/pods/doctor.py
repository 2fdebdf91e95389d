"""What keeps pods from running on this node: the runtime, its network and disk, cgroups, static pods. Looks only, and not for long."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edgecore.data_dir import DataDir
from edgecore.pods import cgroups, choice, manifests, static
from edgecore.pods.image_gc import disk_of
from edgecore.pods.runtime import ContainerRuntime, RuntimeAway, RuntimeRefused
from edgecore.pods.settings import PodsSettings
from proto.kit.checkup import Check
from proto.kit.clock import Clock, SystemClock
from proto.kit.errors import SkerryError

PATIENCE_S = 10.0  # of a runtime that hangs
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
RUNTIME, NETWORK, DISK, STATIC, CGROUPS = "pod runtime", "pod network", "image disk", "static pods", "cgroups"
ROOT = 0
FOLDER = "manifests"  # below the data directory, when no other is set


def examine(directory: DataDir, settings: PodsSettings, before: str, clock: Clock | None = None) -> list[Check]:
    """Run every check of pods; ``before`` is the runtime that this node has used, "" for none."""
    name, why = choice.choose(settings, before)
    static_pods = _static(Path(settings.static_path or directory.path / FOLDER))
    if name == choice.NONE:
        wanted = settings.runtime == choice.NONE
        command = (
            f"apt install containerd   # or, for a node without pods: edgecore run --set pods.runtime={choice.NONE}"
        )
        return [Check(RUNTIME, "OK" if wanted else "Warning", f"no pods are run here: {why}", command), *static_pods]
    try:
        runtime = choice.open_runtime(name, settings, clock or SystemClock(), directory.path)
    except (SkerryError, OSError) as error:
        return [Check(RUNTIME, "Error", str(error), _mend(name)), *static_pods]
    found = asyncio.run(_ask(runtime, name, settings))
    return [*found, *_kernel(name), *static_pods]


def _mend(name: str) -> str:
    return "systemctl status containerd" if name == choice.CRI else "bwrap --version"


async def _ask(runtime: ContainerRuntime, name: str, settings: PodsSettings) -> list[Check]:
    """What the runtime says of itself; one that does not answer is not asked twice."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            version, health = await runtime.version(), await runtime.health()
            out = [Check(RUNTIME, "OK", f"{version.name} {version.version}")]
            if not health.ready:
                out = [Check(RUNTIME, "Error", health.message or health.reason or "it is not ready", _mend(name))]
            if health.network_ready:
                out.append(Check(NETWORK, "OK", "the runtime can give pods addresses"))
            else:
                said = health.message or health.reason or "the runtime cannot give pods addresses"
                out.append(Check(NETWORK, "Error", said, "ls /etc/cni/net.d /opt/cni/bin /usr/lib/cni"))
            return [*out, *_disk((await runtime.image_filesystem()).path, settings)]
    except TimeoutError:
        return [Check(RUNTIME, "Error", f"it does not answer within {PATIENCE_S:g} s", _mend(name))]
    except (RuntimeAway, RuntimeRefused) as error:
        return [Check(RUNTIME, "Error", str(error), _mend(name))]
    finally:
        await runtime.close()


def _disk(path: str, settings: PodsSettings) -> list[Check]:
    try:
        disk = disk_of(path)
    except OSError:
        return []  # the runtime has it in a place that we do not see
    text = f"{disk.free_bytes >> 20} MiB free, {disk.used_percent:.0f} % used ({path})"
    if disk.free_bytes < settings.evict_disk_bytes:
        return [Check(DISK, "Error", f"{text}: pods are evicted", "edgecore images prune --all")]
    if disk.used_percent >= settings.image_gc_high_percent:
        return [Check(DISK, "Warning", f"{text}: unused images are being removed", "edgecore images list")]
    return [Check(DISK, "OK", text)]


def _kernel(name: str) -> list[Check]:
    """What a runtime needs of this machine and says late and unclearly when it lacks."""
    out = []
    try:
        forwards = FORWARDING.read_text().strip() == "1"
    except OSError:
        forwards = True  # nothing known
    if not forwards:
        text = "net.ipv4.ip_forward is 0: pods reach nothing beyond this machine"
        out.append(Check("forwarding", "Warning", text, "sysctl -w net.ipv4.ip_forward=1"))
    if name == choice.CRI and not any(shutil.which(tool) for tool in ("iptables", "nft")):
        text = "neither iptables nor nft is installed: hostPorts and ways out of pods need one"
        out.append(Check("packet filter", "Warning", text, "apt install iptables"))
    if os.geteuid() == ROOT:  # others could not write there anyway
        out.append(_cgroups())
    return out


def _cgroups(mounted: Callable[[], list[Path]] = cgroups.hierarchies) -> Check:
    try:
        roots = mounted()
    except OSError as error:
        return Check(CGROUPS, "Error", f"{error.filename}: {error.strerror}", "mount | grep cgroup")
    if not roots:
        return Check(CGROUPS, "Error", "no cgroup hierarchy is mounted: pods cannot be limited", "mount | grep cgroup")
    closed = [str(root) for root in roots if os.statvfs(root).f_flag & os.ST_RDONLY]
    if closed:
        text = f"{', '.join(closed)} cannot be written: limits of pods are not kept"
        return Check(CGROUPS, "Warning", text, "mount | grep cgroup")
    return Check(CGROUPS, "OK", f"{len(roots)} hierarchies can be written")


def _static(folder: Path) -> list[Check]:
    """Each file that is no pod, by name and line."""
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix in static.SUFFIXES and not p.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Check(STATIC, "Error", f"{folder}: {error.strerror}", f"ls -ld {folder}")]
    looked = [(path, _why_bad(path)) for path in files[: static.MAX_FILES]]
    bad = [Check(STATIC, "Error", f"{path.name}: {why}", f"${{EDITOR:-vi}} {path}") for path, why in looked if why]
    return bad or ([Check(STATIC, "OK", f"{len(files)} files in {folder}")] if files else [])


def _why_bad(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(manifests.MAX_BYTES + 1)
        asyncio.run(manifests.parse(content))
    except manifests.BadManifest as error:
        return f"line {error.line}: {error.message}" if error.line else error.message
    except OSError as error:
        return error.strerror or "it cannot be read"
    except manifests.ChildFailed as error:
        return f"it could not be looked at: {error}"
    return ""

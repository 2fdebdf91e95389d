"""The hardened unit with the drop-in for plain processes, on a booted system: pods run within its limits, and outlive it."""

import sys
import uuid
from pathlib import Path

from tests.kit import images
from tests.kit.machine import Machine, machine
from tests.kit.wait import eventually

ROOT = Path(__file__).parents[2]
SECONDS = "77777"
RUN = uuid.uuid4().hex[:8]  # cgroups are this machine's own
DAEMON = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from edgecore.pods import cgroups, ownership
from edgecore.pods.process.runtime import ProcessRuntime
from edgecore.pods.runtime import ContainerConfig, Resources, SandboxConfig, Security
from proto.kit.clock import SystemClock

async def begin(runtime, data, host_network):
    name = f"p{{host_network}}"
    pod = SandboxConfig(
        "default", name, name, hostname="" if host_network else "inside", log_directory=str(data / name),
        cgroup_parent=f"/skerry-pods/pod{{name}}-{RUN}", host_network=host_network,
        sysctls={{}} if host_network else {{"net.ipv4.ip_local_port_range": "20000 30000"}},
    )
    sandbox = await runtime.run_sandbox(pod)
    security = Security(seccomp="RuntimeDefault", uid=1234)
    config = ContainerConfig(
        "main", {images.BUSYBOX_REF!r}, command=("sleep", "{SECONDS}"), log_path="0.log", security=security,
        resources=Resources(memory_bytes=64 << 20),
    )
    await runtime.start_container(await runtime.create_container(sandbox, config, pod))

async def main():
    data = Path("/var/lib/skerry/edge")
    runtime = ProcessRuntime(data, SystemClock())
    if not await runtime.images():
        await runtime.import_archive(Path("/srv/busybox.tar"))
    if not await runtime.containers():
        await begin(runtime, data, False)
        await begin(runtime, data, True)
    said = []
    for container in await runtime.containers():
        done = await runtime.exec_sync(container.id, ("sh", "-c", "id -u; test -r /etc/resolv.conf && cat /proc/sys/net/ipv4/ip_local_port_range"), 10)
        said.append(f"{{container.id}} {{container.state.value}} {{done.stdout.decode().split()}}")
    volume = data / "volume"
    volume.mkdir(exist_ok=True)
    ownership.give(volume, 2000, None)
    said.append(f"volume {{volume.stat().st_mode:o}}")
    (data / "said").write_text("\\n".join(sorted(said)))
    while not Path("/srv/end").exists():
        await asyncio.sleep(0.1)
    for sandbox in await runtime.sandboxes():
        await runtime.stop_sandbox(sandbox.id)
        await runtime.remove_sandbox(sandbox.id)
        cgroups.remove(f"{{sandbox.uid}}-{RUN}")
    (data / "said").write_text("ended")
    await asyncio.Event().wait()

asyncio.run(main())
"""


def unit() -> str:
    """The unit with its drop-in, but with our daemon, which neither joins nor notifies."""
    whole = (ROOT / "deploy/systemd/edgecore.service").read_text()
    more = (ROOT / "deploy/systemd/edgecore.service.d/process.conf").read_text().partition("[Service]\n")[2]
    more += f"Type=simple\nWatchdogSec=0\nExecStart=\nExecStart={sys.executable} /srv/daemon.py\n"
    lines = [line for line in whole.splitlines() if not line.startswith("ConditionPathExists=")]
    return "\n".join(lines).replace("\n[Install]", f"{more}\n[Install]")


def prepare(gateway: Machine) -> None:
    for controller in ("cpu", "cpuacct", "memory", "pids", "freezer", "devices", "blkio"):
        gateway.try_run("mount", "-o", "remount,bind,rw", f"/sys/fs/cgroup/{controller}")
    (gateway.root / "srv/busybox.tar").write_bytes(images.archive("busybox").read_bytes())
    (gateway.root / "srv/daemon.py").write_text(DAEMON)
    (gateway.root / "etc/systemd/system/edgecore.service").write_text(unit())
    gateway.run("systemctl", "daemon-reload")


async def said(gateway: Machine) -> str:
    """What the daemon found, after its last start."""
    try:
        await eventually(lambda: gateway.try_run("cat", "/var/lib/skerry/edge/said").stdout, 30.0)
    except AssertionError as error:
        raise AssertionError(gateway.journal("edgecore")) from error
    found = gateway.run("cat", "/var/lib/skerry/edge/said")
    gateway.run("rm", "/var/lib/skerry/edge/said")
    return found


def sleeping(gateway: Machine) -> bool:
    """Whether both pods run."""
    words = f"grep -lxzF {SECONDS} /proc/[0-9]*/cmdline | xargs -r grep -lxzF sleep | wc -l"
    return gateway.try_run("sh", "-c", words).stdout.strip() == "2"


def folders(gateway: Machine) -> list[str]:
    """The cgroups of our pods."""
    return gateway.run("find", "/sys/fs/cgroup", "-maxdepth", "3", "-name", f"pod*-{RUN}").split()


async def test_pods_run_under_the_hardened_unit_and_outlive_it() -> None:
    async with machine() as gateway:
        await gateway.boot()
        prepare(gateway)
        gateway.run("systemctl", "start", "edgecore")
        first = await said(gateway)
        assert first.count("running") == 2
        assert "['1234', '20000', '30000']" in first
        assert "volume 42770" in first

        gateway.run("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", "edgecore")
        assert await said(gateway) == first

        gateway.run("systemctl", "stop", "edgecore")
        assert sleeping(gateway)
        gateway.run("systemctl", "start", "edgecore")
        assert await said(gateway) == first
        assert folders(gateway)

        (gateway.root / "srv/end").touch()
        assert await said(gateway) == "ended"
        assert folders(gateway) == []

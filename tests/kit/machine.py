"""A gateway with a booted systemd: this machine's root under an overlay, in a container of its own (systemd-nspawn).

What is installed or written inside stays inside. It is reached with ``run``; its network holds loopback alone, unless a
namespace is given.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy import kubectl
from tests.kit import images
from tests.kit.containerd import CNI_PROGRAMS, CONFIG, remove_cgroup
from tests.kit.wait import eventually

BOOT_S = 60.0
_numbers = itertools.count(1)
# Each machine in cgroups of its own: several may run, and they are easily taken away afterwards.
ENTER = """
for h in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  if [ -e "$h/cgroup.procs" ]; then mkdir -p "$h/$0" && echo $$ > "$h/$0/cgroup.procs"; fi
done
exec "$@"
"""
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
# Debian's containerd wants what this kind of container does not give: a lower oom_score_adj and more open files.
UNIT = """
[Service]
OOMScoreAdjust=0
LimitNOFILE=20000
ExecStartPre=
ExecStartPre=/bin/sh -c 'for c in {controllers}; do [ ! -d /sys/fs/cgroup/$c ] || mount -o remount,bind,rw /sys/fs/cgroup/$c; done'
"""


class Machine:
    """One booted system. ``folder`` holds the overlay's files; ``wanted`` are the units that start at boot."""

    def __init__(self, folder: Path, *, wanted: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.name = f"skerry-{os.getpid()}-{next(_numbers)}"
        self.log = folder / "console.log"
        self._wanted = wanted
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def prepare(self) -> None:
        """Mount the overlay and leave only the wanted units to start."""
        for name in ("root", "upper"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        upper = self.folder / "upper"
        _mount("-t", "tmpfs", "-o", "size=3g,mode=755", "tmpfs", str(upper))
        (upper / "u").mkdir()
        (upper / "w").mkdir()
        _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper}/u,workdir={upper}/w", str(self.root))
        system = self.root / "etc/systemd/system"
        for wants in system.glob("*.wants"):
            shutil.rmtree(wants)
        (system / "multi-user.target.wants").mkdir()
        for unit in self._wanted:
            (system / "multi-user.target.wants" / unit).symlink_to(f"/lib/systemd/system/{unit}")
        (system / "default.target").unlink(missing_ok=True)
        (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
        shutil.copy(kubectl.provide(kubectl.VERSIONS[-1]), self.root / "usr/local/bin/kubectl")
        (self.root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        drop_in = system / "containerd.service.d"
        drop_in.mkdir()
        (drop_in / "inside.conf").write_text(UNIT.format(controllers=" ".join(CONTROLLERS)))
        (self.root / "etc/containerd/config.toml").write_text(
            CONFIG.format(pause=images.PAUSE_REF, cni_programs=CNI_PROGRAMS, cni_conf="/etc/cni/net.d")
        )

    async def boot(self, *, network_of: int = 0) -> None:
        """Boot; ``network_of`` is a process whose network namespace becomes the machine's (0: loopback alone)."""
        network = f"--network-namespace-path=/proc/{network_of}/ns/net" if network_of else "--private-network"
        argv = [
            "sh", "-c", ENTER, self.name, "unshare", "--mount", "--propagation=private", "systemd-nspawn", "-D", str(self.root), "-M", self.name,
            "--register=no", "--keep-unit", network, "--boot", "--console=pipe", "--capability=all",
            "--system-call-filter=@known", "--tmpfs=/var/lib/containerd",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220
        await eventually(self._booted, BOOT_S)

    def _booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.tail()
        self._init = self._init or _child_init(self._process.pid)
        if not self._init:
            return False
        said = self.try_run("systemctl", "is-system-running")
        return said.stdout.strip() in {"running", "degraded"}

    def try_run(self, *argv: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run a command inside; its outcome, whatever it is."""
        enter = ["nsenter", f"--target={self._init}", "--mount", "--uts", "--ipc", "--pid", "--net", "--"]
        return subprocess.run([*enter, *argv], capture_output=True, text=True, check=False, timeout=timeout_s)

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        """Run a command inside and return its output."""
        done = self.try_run(*argv, timeout_s=timeout_s)
        assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}\n{self.tail()}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str, lines: int = 40) -> str:
        return self.try_run("journalctl", "--unit", unit, "--no-pager", "--lines", str(lines)).stdout

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:]) if self.log.exists() else ""

    async def power_off(self) -> None:
        """An orderly shutdown."""
        if self._process is None:
            return
        self.try_run("systemctl", "poweroff", "--no-block")
        try:
            await asyncio.to_thread(self._process.wait, 30.0)
        except subprocess.TimeoutExpired:
            await self.cut_power()
        self._process, self._init = None, 0

    async def cut_power(self) -> None:
        """Everything ends at once; the disk stays as it is."""
        if self._process is None:
            return
        if self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)  # the first process of a pid namespace takes all others along
        try:
            await asyncio.to_thread(self._process.wait, 20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self._init = None, 0

    async def close(self) -> None:
        """End it and leave nothing behind."""
        await self.cut_power()
        for mount in (self.root, self.folder / "upper"):
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)  # noqa: ASYNC221


def _mount(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True, capture_output=True)


def _child_init(pid: int) -> int:
    """Return systemd's process below ``unshare`` and ``systemd-nspawn``; 0 while there is none."""
    for _ in range(3):
        children = Path(f"/proc/{pid}/task/{pid}/children")
        below = children.read_text().split() if children.exists() else []
        for child in below:
            command = Path(f"/proc/{child}/comm").read_text().strip()
            if command == "systemd":
                return int(child)
        if not below:
            return 0
        pid = int(below[0])
    return 0


@asynccontextmanager
async def machine(*, wanted: tuple[str, ...] = ()) -> AsyncIterator[Machine]:
    """A prepared machine, not yet booted; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="skerry-machine-"))
    one = Machine(folder, wanted=wanted)
    try:
        one.prepare()
        yield one
    finally:
        await one.close()
        shutil.rmtree(folder, ignore_errors=True)
        await eventually(lambda: remove_cgroup(f"/{one.name}"), BOOT_S)

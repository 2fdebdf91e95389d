"""A private containerd with crun, CNI and its own namespaces: an edge host as far as pods can tell.

A host is a process that holds a network and a mount namespace. Inside, ``/run/containerd``, ``/var/lib/containerd`` and
``/var/lib/cni`` are the host's own, so that the default socket path works there and nothing meets another host, another
checkout or this machine's own containerd. Outside, the socket is ``Host.socket``.

What Debian's parts need here: crun refuses hybrid cgroups (the unified mount is taken away inside); a container's
oom_score_adj may not be lowered without CAP_SYS_RESOURCE; the CNI programs are in /usr/lib/cni.
"""

import asyncio
import ctypes
import ipaddress
import itertools
import json
import os
import random
import shutil
import signal
import socket as sockets
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import RuntimeAway
from proto.kit.clock import SystemClock
from tests.kit import images
from tests.kit.leftovers import (
    cgroup_processes,
    end_all,
    end_leftovers,
    environment,
    ip,
    namespace,
    state,
    with_children,
)
from tests.kit.leftovers import remove_cgroup as remove_cgroup  # noqa: PLC0414  also for others
from tests.kit.wait import eventually

T = TypeVar("T")
READY_S = 15.0
CABLE_TRIES = 100
CLONE_NEWNET = 0x40000000
SOCKET_INSIDE = Path("/run/containerd/containerd.sock")
CNI_PROGRAMS = "/usr/lib/cni"
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

CONFIG = """
version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "{pause}"
    disable_apparmor = true
    restrict_oom_score_adj = true
    netns_mounts_under_state_dir = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "{cni_programs}"
      conf_dir = "{cni_conf}"
    [plugins."io.containerd.grpc.v1.cri".containerd]
      snapshotter = "overlayfs"
      default_runtime_name = "crun"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
        runtime_type = "io.containerd.runc.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
          BinaryName = "/usr/bin/crun"
          Root = "/run/containerd/crun"
"""

SET_UP = """
set -e
mkdir -p /run/containerd /var/lib/containerd /var/lib/cni
mount --bind "$1/run" /run/containerd
mount -t tmpfs -o mode=711 tmpfs /var/lib/containerd
mount -t tmpfs -o mode=755 tmpfs /var/lib/cni
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
ip link set lo up
echo ready > "$1/ready"
exec sleep infinity
"""


class Host:
    """One edge host. ``subnet`` is of its pods; ``images_`` are imported at the first start (pause always is)."""

    def __init__(self, folder: Path, *, subnet: str = "10.88.0.0/16", archives: Sequence[str] = ("busybox",)) -> None:
        self.folder = folder
        self.subnet = subnet
        self.archives = [images.archive(name) for name in dict.fromkeys(("pause", *archives))]
        self.cgroup = f"/skerry-{os.getpid()}-{next(_numbers)}"  # for the cgroup_parent of what runs here
        self.log = folder / "containerd.log"
        self._holder: subprocess.Popen[bytes] | None = None
        self._spaces: set[str] = set()
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The CRI socket as seen from outside."""
        return self.folder / "run" / "containerd.sock"

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        assert self._holder is not None
        return self._holder.pid

    @property
    def argv_prefix(self) -> list[str]:
        """What comes before a command that shall run inside; the process keeps its pid and its environment."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--"]

    # The host's life

    async def open(self) -> None:
        """Make the namespaces; no containerd yet."""
        end_leftovers()
        (self.folder / "run").mkdir(parents=True)
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(self._network()))
        values = {"pause": images.PAUSE_REF, "cni_programs": CNI_PROGRAMS, "cni_conf": self.folder / "cni"}
        (self.folder / "config.toml").write_text(CONFIG.format(**values))
        unshare = ["unshare", "--net", "--mount", "--propagation=slave", "sh", "-c", SET_UP, "host", str(self.folder)]
        errors = (self.folder / "host.log").open("ab")
        with errors:
            self._holder = subprocess.Popen(  # noqa: ASYNC220
                unshare, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment()
            )

        def ready() -> bool:
            assert self._holder is not None
            assert self._holder.poll() is None, (self.folder / "host.log").read_text()
            return (self.folder / "ready").exists()

        await eventually(ready, READY_S)
        self._spaces = {namespace(self.pid, kind) for kind in ("mnt", "net")}
        assert not self._spaces & {namespace(os.getpid(), kind) for kind in ("mnt", "net")}

    async def close(self) -> None:
        """End everything that runs here and leave nothing behind."""
        if self._holder is None:
            return
        end_all(self.processes)
        for process in (self._daemon, self._holder):
            if process is not None:
                process.kill()
                process.wait()
        self._daemon = self._holder = None
        await eventually(lambda: remove_cgroup(self.cgroup), READY_S)

    def power_cut(self) -> None:
        """Every process ends at once and what a boot clears is cleared; images and the disk stay."""
        end_all(self.processes)
        if self._daemon is not None:
            self._daemon.wait()
            self._daemon = None
        self.run(
            "sh",
            "-c",
            "rm -rf /run/containerd/* /var/lib/cni/*; ip -o link | sed -n 's/^[0-9]*: \\(pods[0-9]*\\):.*/\\1/p' | xargs -r -n1 ip link del",
        )

    # containerd's life

    async def start(self) -> None:
        """Start containerd and wait until it can run pods."""
        assert self._daemon is None
        argv = [*self.argv_prefix, "containerd", "--config", str(self.folder / "config.toml")]
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(  # noqa: ASYNC220
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        await eventually(self._ready, READY_S)
        present = self._ctr("images", "list", "-q").split()
        for archive in self.archives if images.PAUSE_REF not in present else ():
            await asyncio.to_thread(self._ctr, "images", "import", str(archive))

    async def _ready(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"containerd ended:\n{self.tail()}"
        runtime = CriRuntime(self.socket, SystemClock())
        try:
            health = await runtime.health()
        except RuntimeAway:
            return False
        finally:
            await runtime.close()
        return health.ready and health.network_ready

    async def stop(self) -> None:
        """SIGTERM; what runs goes on running."""
        await self._stop(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL; what runs goes on running."""
        await self._stop(signal.SIGKILL)

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def pause(self) -> None:
        """containerd hangs, as far as anyone can tell."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self._daemon.pid}/task")
        await eventually(lambda: all(state(thread / "stat") == "T" for thread in threads.iterdir()))

    def resume(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    async def _stop(self, number: int) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)
        await asyncio.to_thread(self._daemon.wait, READY_S)
        self._daemon = None

    # Inside

    def run(self, *argv: str) -> str:
        """Run a command inside and return its output."""
        done = subprocess.run([*self.argv_prefix, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def within(self, work: Callable[[], T]) -> T:
        """Return ``work()`` of a thread in the network namespace: a socket made there stays there."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
                    entered = _libc.setns(namespace.fileno(), CLONE_NEWNET)
                assert entered == 0, f"setns: {os.strerror(ctypes.get_errno())}"
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001  passed on
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    async def connect(self, host: str, port: int) -> sockets.socket:
        """Open a TCP connection as a process inside would; the socket does not block."""
        sock = self.within(sockets.socket)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def uplink(self) -> tuple[str, str]:
        """Join the host with this machine by a cable; return this machine's end and the host's, as addresses.

        The cable is ``up0`` inside (``run("ip", "link", "set", "up0", "down")`` cuts it) and goes with the host.
        """
        used = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
        nets = (f"10.203.{random.randrange(256)}.{4 * random.randrange(64)}" for _ in range(CABLE_TRIES))
        net = ipaddress.ip_address(next(net for net in nets if f" {ipaddress.ip_address(net) + 1}/" not in used))
        outside, name = net + 1, f"sk{self.pid}"
        ip("link", "add", name, "type", "veth", "peer", "name", "up0", "netns", str(self.pid))
        ip("addr", "add", f"{outside}/30", "dev", name)
        ip("link", "set", name, "up")
        self.run("ip", "addr", "add", f"{net + 2}/30", "dev", "up0")
        self.run("ip", "link", "set", "up0", "up")
        self.run("ip", "route", "add", "default", "via", str(outside))
        return str(outside), str(net + 2)

    async def dial(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As ``connect``, with asyncio's streams."""
        return await asyncio.open_connection(sock=await self.connect(host, port))

    def listener(self, host: str = "127.0.0.1", port: int = 0) -> sockets.socket:
        """Return a listening socket inside."""
        return self.within(lambda: sockets.create_server((host, port)))

    def tail(self, lines: int = 30) -> str:
        """The end of containerd's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _ctr_argv(self) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]

    def _ctr(self, *argv: str) -> str:
        done = subprocess.run([*self._ctr_argv(), *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ctr {argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def _network(self) -> dict[str, object]:
        ranges = [[{"subnet": self.subnet}]]
        addresses = {
            "type": "host-local",
            "dataDir": "/var/lib/cni/addresses",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": addresses,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}

    def processes(self) -> list[int]:
        """Everything that runs here but the holder: all in one of the two namespaces, what came from these, and what is in our cgroup."""
        own = with_children(lambda pid: bool({namespace(pid, "mnt"), namespace(pid, "net")} & self._spaces))
        return [pid for pid in {*own, *cgroup_processes(self.cgroup)} if pid not in {self.pid, os.getpid()}]


@asynccontextmanager
async def host(
    folder: Path | None = None, *, subnet: str = "10.88.0.0/16", archives: Sequence[str] = ("busybox",)
) -> AsyncIterator[Host]:
    """A host with a running containerd, gone afterwards with all that ran on it."""
    own = Path(tempfile.mkdtemp(prefix="skerry-host-")) if folder is None else folder
    one = Host(own, subnet=subnet, archives=archives)
    try:
        await one.open()
        await one.start()
        yield one
    finally:
        await one.close()
        if folder is None:
            shutil.rmtree(own)


@contextmanager
def hosted(folder: Path, *, subnet: str = "10.88.0.0/16", archives: Sequence[str] = ("busybox",)) -> Iterator[Host]:
    """As ``host``, for fixtures whose tests have loops of their own."""
    one = Host(folder, subnet=subnet, archives=archives)

    async def start() -> None:
        await one.open()
        await one.start()

    try:
        asyncio.run(start())
        yield one
    finally:
        asyncio.run(one.close())

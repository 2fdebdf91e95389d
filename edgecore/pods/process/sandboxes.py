"""The lives of pods: made, stopped, found dead, removed; and the addresses they have while they live (PROC-4, PROC-5)."""

import asyncio
import fcntl
import ipaddress
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from edgecore.pods.process import boot, plans, records, wire
from edgecore.pods.process.records import ContainerRecord, Disk, PodRecord
from edgecore.pods.process.shim import cgroup
from edgecore.pods.runtime import RuntimeRefused, SandboxConfig

Json = dict[str, Any]
BRIDGE = "skerry0"
BEGIN_S = 60.0
STOP_S = 30.0
READY = b"ready"
MAX_WORDS = 4096
KILLED = 128 + signal.SIGKILL
OURS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "LISTEN_FDS",
    "LISTEN_PID",
)  # the unit's, not a pod's


class Sandboxes:
    """``prefix`` comes before each supervisor's command line: to start it in another network, say."""

    def __init__(self, disk: Disk, subnet: str, now_ns: Callable[[], int], prefix: tuple[str, ...]) -> None:
        self._disk, self._now_ns, self._prefix = disk, now_ns, prefix
        self._network = ipaddress.ip_network(subnet)
        self._where = cgroup.Hierarchies()

    async def run(self, config: SandboxConfig, bwrap: str) -> Path:
        """Make a pod; returns its folder. Raises RuntimeRefused."""
        folder = self._disk.pods / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        try:
            record = PodRecord(folder.name, self._now_ns(), config)
            with self._addresses() as taken:
                if not config.host_network:
                    record.address = self._free(taken)
                records.save(folder / records.RECORD, msgspec.json.encode(record))
            plan = plans.pod(config, folder, bwrap, self._cable(record), self._disk.pods.parent / "network.lock")
            (folder / "resolv.conf").write_text(plans.resolv_conf(config))
            (folder / "hostname").write_text(f"{config.hostname}\n")
            for name in ("resolv.conf", "hostname"):
                (folder / name).chmod(0o644)
            (folder / records.POD).write_bytes(msgspec.json.encode(plan))
            await self._begin(folder)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self.bury, folder))
            with suppress(OSError):
                records.delete(folder)
            raise
        return folder

    async def stop(self, folder: Path) -> None:
        """End everything of the pod and give its address back; right again at any time. Raises RuntimeRefused."""
        with suppress(wire.Gone):
            async with wire.conversation(folder) as connection:
                connection.send({"op": "stop"})
                while (await connection.receive(STOP_S))[0] is not None:
                    continue
        for _ in range(100):
            if not wire.lives(folder):
                break
            await asyncio.to_thread(_moment)
        await asyncio.to_thread(self.bury, folder)

    async def remove(self, folder: Path) -> None:
        await self.stop(folder)
        await asyncio.to_thread(records.delete, folder)

    def bury(self, folder: Path) -> None:
        """Tidy up after a supervisor that is gone: processes, cgroups, unwritten ends. Does nothing while it lives."""
        if wire.lives(folder):
            return
        for one in self._disk.container_folders(folder):
            with suppress(RuntimeRefused):
                self._end(one)
        path = self._cgroup(folder)
        if path:
            for inner in self._where.folders(path):
                cgroup.kill([inner])
            cgroup.remove(self._where.folders(path))

    def bury_all(self) -> None:
        """After a restart, or a power cut; what never became a pod goes."""
        with suppress(FileNotFoundError):
            for folder in self._disk.pods.iterdir():
                if not wire.lives(folder):
                    self.bury(folder)
                    if not (folder / records.STATE).exists():
                        shutil.rmtree(folder, ignore_errors=True)

    # inside

    def _end(self, folder: Path) -> None:
        """Write how a container ended that nobody saw end."""
        record = records.load(folder / records.RECORD, ContainerRecord)
        state = records.state_of(folder)
        if state is None or state.finished_at_ns:
            cgroup.remove(self._where.folders(record.cgroup))
            return
        cgroup.kill(self._where.folders(record.cgroup))
        state.oom = cgroup.out_of_memory(self._where, record.cgroup) > 0
        cgroup.remove(self._where.folders(record.cgroup))
        state.exit_code, state.unseen, state.finished_at_ns = KILLED, True, self._now_ns()
        records.save(folder / records.STATE, msgspec.json.encode(state))

    def _cgroup(self, folder: Path) -> str:
        try:
            return str(msgspec.json.decode((folder / records.POD).read_bytes())["cgroup"])
        except (OSError, msgspec.MsgspecError):
            return ""

    async def _begin(self, folder: Path) -> None:
        """Start the supervisor and wait until the pod is ready. Raises RuntimeRefused."""
        told, tell = os.pipe()
        log = os.open(folder / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            argv = [*self._prefix, *boot.argv("main", str(folder), str(tell))]
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(tell,),
                env={name: value for name, value in os.environ.items() if name not in OURS},
                start_new_session=True,
            )
        except OSError as error:
            os.close(told)
            raise RuntimeRefused(f"the pod's supervisor cannot be started: {error.strerror}") from error
        finally:
            os.close(tell)
            os.close(log)
        try:
            async with asyncio.timeout(BEGIN_S):
                said = await _read_all(told)
                await process.wait()  # its child is the supervisor
        except TimeoutError as error:
            raise RuntimeRefused(f"the pod was not ready within {BEGIN_S:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if said != READY:
            words = said.decode(errors="replace") or (folder / "shim.log").read_text(errors="replace").strip()[-400:]
            raise RuntimeRefused(words or "the pod's supervisor ended at once")

    @contextmanager
    def _addresses(self) -> Iterator[set[str]]:
        """Yield the addresses that are taken; nobody else takes one meanwhile."""
        fd = os.open(self._disk.pods.parent / "addresses.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            taken = set()
            for folder in self._disk.pods.iterdir():
                with suppress(RuntimeRefused):
                    record = records.load(folder / records.RECORD, PodRecord)
                    if record.address and (wire.lives(folder) or not (folder / records.STATE).exists()):
                        taken.add(record.address)
            yield taken
        finally:
            os.close(fd)

    def _free(self, taken: set[str]) -> str:
        hosts = self._network.hosts()
        next(hosts)  # the bridge's own
        found = next((str(host) for host in hosts if str(host) not in taken), "")
        if not found:
            raise RuntimeRefused(f"no address is left in pods.process_subnet {self._network}")
        return found

    def _cable(self, record: PodRecord) -> Json | None:
        if not record.address:
            return None
        return {
            "bridge": BRIDGE,
            "subnet": str(self._network),
            "gateway": str(next(self._network.hosts())),
            "prefix": self._network.prefixlen,
            "address": record.address,
            "cable": f"sk{record.id[:10]}",
        }


async def _read_all(fd: int) -> bytes:
    """Read until the other end is closed; closes ``fd``."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    heard = b""
    try:
        while True:
            ready = loop.create_future()
            loop.add_reader(fd, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
            data = os.read(fd, MAX_WORDS)
            if not data:
                return heard
            heard = (heard + data)[:MAX_WORDS]
    finally:
        os.close(fd)


def _moment() -> None:
    import select  # noqa: PLC0415  between the end of the connection and that of the process

    select.select([], [], [], 0.01)

"""Which pods changed by themselves. Where the runtime has GetContainerEvents, from there; else by a pidfd on each first process.

Neither costs anything while nothing happens. A slow look at everything covers what both may miss.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec

from edgecore.pods.cri.messages import UID_LABEL
from edgecore.pods.cri.wire import Connection, Unimplemented
from edgecore.pods.runtime import NoSuch, RuntimeAway, RuntimeRefused
from proto.gen import cri_pb2 as pb
from proto.kit.backoff import Backoff
from proto.kit.clock import Clock
from proto.kit.log import Logger

log = Logger("pods")
RELIST_S = 30.0
UNSEEN_S = 0.2  # whoever starts something asks for its status next, and that brings its process along
BLIND_RELIST_S = 2.0  # while some process cannot be seen from here (another pid namespace)
AWAY_S = 1.0
SETTLE_S = 3.0  # between a process's end and the runtime knowing of it
EMPTY_S = 1.0  # CRI-O with its events switched off ends their stream at once, without an error
EVENTS = "GetContainerEvents"
ENDS = (pb.CONTAINER_STOPPED_EVENT, pb.CONTAINER_DELETED_EVENT)


class _Verbose(msgspec.Struct):
    """What we read of the runtime's verbose status."""

    pid: int = 0


class Changes:
    """The state behind ``ContainerRuntime.changes``; one reader at a time."""

    def __init__(self, wire: Connection, clock: Clock) -> None:
        self._wire, self._clock = wire, clock
        self._uids: dict[str, str] = {}  # container or sandbox id -> pod uid
        self._known: dict[str, int] | None = None  # id -> its state when last listed
        self._sandboxes: set[str] = set()
        self._pidfds: dict[str, int] = {}
        self._blind: set[str] = set()  # run, but their process is not to be seen
        self._fresh: dict[str, float] = {}  # began, not watched yet -> when to ask for its process
        self._ended: set[str] = set()  # their process ended, not told yet
        self._woken = asyncio.Event()
        self._polling = False

    # Told by the runtime's own calls

    def created(self, container_id: str, uid: str) -> None:
        if self._polling:
            self._uids[container_id] = uid

    def began(self, some_id: str, uid: str = "", *, sandbox: bool = False) -> None:
        """Watch a container or sandbox that was just started, rather than at the next look at everything."""
        if not self._polling:
            return
        if sandbox:
            self._uids[some_id] = uid
            self._sandboxes.add(some_id)
        self._fresh[some_id] = self._clock.now_s() + UNSEEN_S
        self._woken.set()

    def wants(self, some_id: str) -> bool:
        """Whether a verbose status of it should be asked for, and shown to ``told``."""
        return some_id in self._fresh

    def told(self, some_id: str, state: int, info: Mapping[str, str]) -> None:
        """What a verbose status said: its process is watched from now on. One that ended is known to whoever asked."""
        began = self._fresh.pop(some_id, None) is not None and some_id not in self._pidfds
        if began and self._runs(some_id, state) and not self._watch_process(some_id, _pid_in(info)):
            self._fresh[some_id] = self._clock.now_s()  # ended meanwhile, or out of sight: that takes another question
            self._woken.set()

    def close(self) -> None:
        self._polling = False
        self._fresh.clear()
        for some_id in list(self._pidfds):
            self._release(some_id)

    async def watch(self) -> AsyncGenerator[str, None]:
        """Yield uids of pods; ends never."""
        silent = False
        try:
            while True:
                source = self._polled() if self._wire.lacks(EVENTS) else self._streamed()
                try:
                    async with aclosing(source) as uids:
                        async for uid in uids:
                            silent = False
                            yield uid
                except Unimplemented:
                    continue
                except (RuntimeAway, RuntimeRefused) as error:
                    if not silent:
                        log.warning("container runtime tells no changes", reason=str(error))
                    silent = True
                    await self._clock.sleep(AWAY_S)
        finally:
            self.close()

    # GetContainerEvents

    async def _streamed(self) -> AsyncGenerator[str, None]:
        async with self._wire.events() as receive:
            opened_s = self._clock.now_s()
            for uid in await self._relist():
                yield uid
            relist_at = self._clock.now_s() + RELIST_S
            while (left_s := relist_at - self._clock.now_s()) > 0:
                try:
                    async with asyncio.timeout(left_s):
                        event = await receive()
                except TimeoutError:
                    return  # a wait that was cut may have lost half a message: the stream is opened anew
                if event is None:
                    if self._clock.now_s() - opened_s < EMPTY_S:
                        self._wire.note_missing(EVENTS)
                    raise RuntimeAway("the container runtime ended the stream of its events")
                if event.container_event_type in ENDS:
                    uid = event.pod_sandbox_status.metadata.uid or self._uids.get(event.container_id, "")
                    for changed in [uid] if uid else await self._relist():
                        yield changed

    # pidfds

    async def _polled(self) -> AsyncGenerator[str, None]:
        self._polling = True
        while True:
            for uid in await self._relist():
                yield uid
            running = {i for i, state in (self._known or {}).items() if self._runs(i, state)}
            await self._follow(
                running - self._blind
            )  # what was out of sight stays so; asking again costs more than listing
            relist_at = self._clock.now_s() + (BLIND_RELIST_S if self._blind else RELIST_S)
            while (left_s := relist_at - self._clock.now_s()) > 0:
                first_s = min(self._fresh.values(), default=relist_at) - self._clock.now_s()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(left_s, first_s))):
                        await self._woken.wait()
                self._woken.clear()
                now_s = self._clock.now_s()
                late = {some_id for some_id, at_s in self._fresh.items() if at_s <= now_s}
                for some_id in late:
                    del self._fresh[some_id]
                await self._follow(late)
                ended, self._ended = self._ended, set()
                for some_id in ended:
                    await self._settle(some_id)
                for uid in {self._uids[i] for i in ended if i in self._uids}:
                    yield uid
                if self._blind and not ended:
                    relist_at = min(relist_at, self._clock.now_s() + BLIND_RELIST_S)

    async def _follow(self, ids: set[str]) -> None:
        for some_id in sorted(ids - self._pidfds.keys()):
            if not self._watch_process(some_id, await self._pid(some_id)):
                state = await self._state(some_id)
                (self._blind if self._runs(some_id, state) else self._ended).add(some_id)
        if self._ended:
            self._woken.set()

    def _watch_process(self, some_id: str, pid: int) -> bool:
        """Whether the end of its process will be heard of."""
        pidfd = self._open(some_id, pid)
        if pidfd >= 0:
            self._blind.discard(some_id)
            self._pidfds[some_id] = pidfd
            asyncio.get_running_loop().add_reader(pidfd, self._process_ended, some_id)
        return pidfd >= 0

    def _open(self, some_id: str, pid: int) -> int:
        """Return a pidfd, -1 when that process is not to be seen from here or is another one."""
        if pid <= 0:
            return -1
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return -1
        with suppress(OSError):
            if some_id in Path(f"/proc/{pid}/cgroup").read_text():
                return pidfd
        os.close(pidfd)
        return -1

    def _process_ended(self, some_id: str) -> None:
        self._release(some_id)
        self._ended.add(some_id)
        self._woken.set()

    def _release(self, some_id: str) -> None:
        pidfd = self._pidfds.pop(some_id)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    async def _settle(self, some_id: str) -> None:
        """Wait until the runtime knows of the end, so that whoever is told finds it."""
        pause = Backoff(base_s=0.01, cap_s=0.2)
        until_s = self._clock.now_s() + SETTLE_S
        while self._runs(some_id, state := await self._state(some_id)) and self._clock.now_s() < until_s:
            await self._clock.sleep(pause.next_s())
        if self._known is not None:
            self._known[some_id] = state

    # The runtime's word

    async def _relist(self) -> set[str]:
        """Look at everything; return the pods that differ from the last look, none at the first."""
        listed = await self._wire.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        held = await self._wire.call("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        uids = {item.id: item.metadata.uid for item in listed.items}
        self._sandboxes = set(uids)
        now: dict[str, int] = {item.id: item.state for item in listed.items}
        for item in held.containers:
            now[item.id] = item.state
            uids[item.id] = uids.get(item.pod_sandbox_id) or item.labels.get(UID_LABEL, "")
        before, self._known = self._known, now
        every, self._uids = {**self._uids, **uids}, uids
        self._blind &= now.keys()
        for gone in self._pidfds.keys() - now.keys():
            self._release(gone)
        if before is None:
            return set()
        differ = {i for i in before.keys() | now.keys() if before.get(i) != now.get(i)}
        return {every[i] for i in differ if every.get(i)}

    def _runs(self, some_id: str, state: int) -> bool:
        running: int = pb.SANDBOX_READY if some_id in self._sandboxes else pb.CONTAINER_RUNNING
        return state == running

    async def _state(self, some_id: str) -> int:
        """Return the state now; -1 when it is gone."""
        with suppress(NoSuch):
            state: int = (await self._status(some_id, verbose=False)).status.state
            return state
        return -1

    async def _pid(self, some_id: str) -> int:
        with suppress(NoSuch):
            return _pid_in((await self._status(some_id, verbose=True)).info)
        return 0

    async def _status(self, some_id: str, *, verbose: bool) -> pb.PodSandboxStatusResponse | pb.ContainerStatusResponse:
        if some_id in self._sandboxes:
            sandbox = pb.PodSandboxStatusRequest(pod_sandbox_id=some_id, verbose=verbose)
            return await self._wire.call("PodSandboxStatus", sandbox, pb.PodSandboxStatusResponse)
        container = pb.ContainerStatusRequest(container_id=some_id, verbose=verbose)
        return await self._wire.call("ContainerStatus", container, pb.ContainerStatusResponse)


def _pid_in(info: Mapping[str, str]) -> int:
    """The process in a verbose status; 0 when it names none."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(info.get("info", "{}"), type=_Verbose).pid
    return 0

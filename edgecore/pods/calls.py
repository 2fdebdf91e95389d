"""Serves the calls of proto.calls at this node: logs, exec, attach, port-forward, figures.

Reads pods from the edge's store, containers from the runtime (by the labels of ``marks``) and log files; changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from edgecore.pods.figures import Figures
from edgecore.pods.logfile import LogChannels, Wanted, timestamp
from edgecore.pods.marks import CONTAINER_NAME, POD_UID
from edgecore.pods.runtime import Container, ContainerRuntime, NoSuch, State
from kubeapi import kinds
from kubeapi.store import Store
from proto.calls import Call, CallRefused
from proto.kit.channels import STDIN, STDOUT, Channels, Chunk, LocalChannels
from proto.kit.clock import Clock

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
LISTS = ("containers", "initContainers", "ephemeralContainers")
STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
ENDED_FRESH_S = 1.0  # all who follow logs share one list of containers as old as this at most
WAITS_FOR_IMAGE = {
    "ErrImagePull": "image can't be pulled",
    "ErrImageNeverPull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Target:
    """The pod and container that a call means."""

    pod: Json
    name: str  # of the container
    attempts: list[Container]  # in the runtime, oldest first

    @property
    def shown(self) -> str:
        return str(self.pod["metadata"]["name"])


class PodCalls:
    """``open`` is an OpenCall. ``runtime`` returns None while nothing runs pods here; ``why`` then says why."""

    def __init__(
        self,
        node: str,
        store: Store,
        runtime: Callable[[], ContainerRuntime | None],
        *,
        disk: Path,
        clock: Clock,
        why: Callable[[], str] = lambda: "no container runtime is configured",
    ) -> None:
        self._node = node
        self._store = store
        self._runtime = runtime
        self._disk = disk
        self._clock = clock
        self._why = why
        self._figures: tuple[ContainerRuntime, Figures] | None = None
        self._running: set[str] = set()
        self._listed_s = float("-inf")

    async def open(self, call: Call) -> Channels:
        """Open a call. Raises CallRefused, RuntimeAway."""
        if call.kind == "ping":
            return Echo()
        runtime = self._runtime()
        if runtime is None:
            raise CallRefused(503, "ServiceUnavailable", self._why())
        if call.kind == "stats":
            return Said(msgspec.json.encode(await self._figures_of(runtime).summary()))
        if call.kind == "metrics":
            return Said((await self._figures_of(runtime).resource_metrics()).encode())
        try:
            if call.kind == "logs":
                return await self._logs(runtime, call)
            if call.kind == "portforward":
                return await self._forward(runtime, call)
            return await self._command(runtime, call)
        except NoSuch as error:
            raise CallRefused(404, "NotFound", str(error)) from error

    def _figures_of(self, runtime: ContainerRuntime) -> Figures:
        if self._figures is None or self._figures[0] is not runtime:
            self._figures = (runtime, Figures(self._node, runtime, self._disk, self._clock))
        return self._figures[1]

    # exec, attach, port-forward

    async def _command(self, runtime: ContainerRuntime, call: Call) -> Channels:
        target = await self._target(runtime, call)
        running = [c for c in target.attempts if c.state is State.RUNNING]
        if not running:
            raise CallRefused(404, "NotFound", f'container not found ("{target.name}")')
        wanted = {"stdin": call.stdin, "stdout": call.stdout, "stderr": call.stderr and not call.tty, "tty": call.tty}
        if call.kind == "exec":
            if not call.command:
                raise CallRefused(400, "BadRequest", "you must specify at least one command for the container")
            return await runtime.exec(running[-1].id, tuple(call.command), **wanted)
        wanted["tty"] = bool(_spec(target.pod, target.name).get("tty", False))
        return await runtime.attach(running[-1].id, **wanted)

    async def _forward(self, runtime: ContainerRuntime, call: Call) -> Channels:
        pod = self._pod(call)
        uid = pod["metadata"].get("uid", "")
        ready = [s for s in await runtime.sandboxes() if s.uid == uid and s.state is State.RUNNING]
        if not ready:
            phase = (pod.get("status") or {}).get("phase", "Pending")
            text = f"unable to forward port because pod is not running. Current status={phase}"
            raise CallRefused(400, "BadRequest", text)
        if not call.port:
            raise CallRefused(400, "BadRequest", "a port between 1 and 65535 must be given")
        newest = max(ready, key=lambda sandbox: (sandbox.attempt, sandbox.created_at_ns))
        return await runtime.port_forward(newest.id, call.port)

    # logs

    async def _logs(self, runtime: ContainerRuntime, call: Call) -> Channels:
        wanted = self._wanted(call)
        target = await self._target(runtime, call)
        container = _whose_log(target, previous=call.previous)
        if container is None:
            return await self._left_behind(runtime, target, wanted)
        status = await runtime.container_status(container.id)
        if not status.log_path:
            _refuse(f'container "{target.name}" in pod "{target.shown}" has no log')

        async def ended() -> bool:
            return await self._has_ended(runtime, container.id)

        return LogChannels(Path(status.log_path), wanted, clock=self._clock, ended=ended)

    async def _left_behind(self, runtime: ContainerRuntime, target: _Target, wanted: Wanted) -> Channels:
        """The log of the attempt before the only one that the runtime has."""
        newest = await runtime.container_status(target.attempts[-1].id) if target.attempts else None
        file = None if newest is None else _file_before(newest)
        if file is None:
            _refuse(f'previous terminated container "{target.name}" in pod "{target.shown}" not found')
        return LogChannels(file, wanted, clock=self._clock, ended=_always)

    def _wanted(self, call: Call) -> Wanted:
        since = None
        if call.since_time:
            since = timestamp(call.since_time.encode())
            if since is None:
                _refuse(f'sinceTime "{call.since_time[:64]}" is no RFC 3339 time')
        elif call.since_seconds is not None:
            if call.since_seconds < 1:
                _refuse("sinceSeconds must be greater than 0")
            since = self._clock.wall().astimezone(UTC) - timedelta(seconds=min(call.since_seconds, 10**9))
        if call.tail_lines is not None and call.tail_lines < 0:
            _refuse("tailLines must be greater than or equal to 0")
        if call.limit_bytes is not None and call.limit_bytes < 1:
            _refuse("limitBytes must be greater than 0")
        return Wanted(call.follow, call.timestamps, call.tail_lines, since, call.limit_bytes)

    async def _has_ended(self, runtime: ContainerRuntime, container_id: str) -> bool:
        """Whether a container runs no more; a runtime that is away says nothing about it."""
        now_s = self._clock.now_s()
        if now_s - self._listed_s >= ENDED_FRESH_S:
            self._listed_s = now_s
            listed = await runtime.containers()
            self._running = {c.id for c in listed if c.state in (State.RUNNING, State.CREATED)}
        return container_id not in self._running

    # who is meant

    def _pod(self, call: Call) -> Json:
        pod = self._store.get(kinds.POD, call.namespace, call.pod)
        if pod is None:
            raise CallRefused(404, "NotFound", f'pods "{call.pod}" not found')
        return pod

    async def _target(self, runtime: ContainerRuntime, call: Call) -> _Target:
        pod = self._pod(call)
        name = call.container or _default_container(pod)
        if not _spec(pod, name):
            raise CallRefused(404, "NotFound", f'container "{name}" not found in pod "{call.pod}"')
        uid = pod["metadata"].get("uid", "")
        listed = await runtime.containers()
        mine = [c for c in listed if c.labels.get(POD_UID) == uid and c.labels.get(CONTAINER_NAME) == name]
        return _Target(pod, name, sorted(mine, key=lambda c: (c.attempt, c.created_at_ns)))


async def _always() -> bool:
    return True


def _refuse(message: str) -> NoReturn:
    raise CallRefused(400, "BadRequest", message)


def _default_container(pod: Json) -> str:
    names = [c["name"] for c in pod["spec"].get("containers") or []]
    chosen = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER, "")
    if chosen in names:
        return str(chosen)
    if len(names) == 1:
        return str(names[0])
    pod_name = pod["metadata"]["name"]
    _refuse(f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]")


def _spec(pod: Json, name: str) -> Json:
    found = (c for key in LISTS for c in pod["spec"].get(key) or [] if c["name"] == name)
    return next(found, {})


def _status(pod: Json, name: str) -> Json:
    statuses = pod.get("status") or {}
    found = (c for key in STATUSES for c in statuses.get(key) or [] if c.get("name") == name)
    return next(found, {})


def _id(state: Mapping[str, Any]) -> str:
    return str(state.get("containerID") or "").rpartition("://")[2]


def _whose_log(target: _Target, *, previous: bool) -> Container | None:
    """Return the container whose log is asked for, None when the runtime no longer has it. Raises CallRefused as kubelet does."""
    status = _status(target.pod, target.name)
    started = [c for c in target.attempts if c.state is not State.CREATED]
    if previous:
        last = (status.get("lastState") or {}).get("terminated") or {}
        found = [c for c in started if c.id == _id(last)]
        return found[0] if found else started[-2] if len(started) > 1 else None
    if started:
        return started[-1]
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "ContainerCreating")
    why = WAITS_FOR_IMAGE.get(reason, reason)
    _refuse(f'container "{target.name}" in pod "{target.shown}" is waiting to start: {why}')


def _file_before(newest: Container) -> Path | None:
    """Return the log that the attempt before ``newest`` left, if its file is still there."""
    if not newest.log_path or newest.attempt < 1:
        return None
    before = Path(newest.log_path).with_name(f"{newest.attempt - 1}.log")
    return before if before.exists() else None


class Said:
    """A text that is read once, as ``Channels``."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    async def read(self) -> Chunk | None:
        content, self._content = self._content, None
        return None if content is None else Chunk(STDOUT, content)

    async def write(self, channel: int, data: bytes) -> None:
        """Nobody listens."""
        del channel, data

    async def finish(self, channel: int) -> None:
        del channel

    async def close(self, error: str = "") -> None:
        del error
        self._content = None


class Echo(LocalChannels):
    """What is written to STDIN is read from STDOUT; its end ends all."""

    def __init__(self) -> None:
        super().__init__(64 << 10)

    async def write(self, channel: int, data: bytes) -> None:
        if channel == STDIN:
            await super().write(STDOUT, data)

    async def finish(self, channel: int) -> None:
        if channel == STDIN:
            await self.close()

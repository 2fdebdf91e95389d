"""What is on disk of pods and containers: ``sandboxes/ID/{record,pod,state}.json`` and ``.../containers/ID/{record,plan,state}.json``.

A record is what was asked for (written by edgecore, once), a plan what the supervisor carries out, a state how it went (written by
the supervisor). Nothing is kept in memory: any process that looks finds the same (PROC-3).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from edgecore.pods import trees
from edgecore.pods.process import wire
from edgecore.pods.runtime import Container, ContainerConfig, NoSuch, Sandbox, SandboxConfig, State

RECORD, STATE, PLAN, POD = "record.json", "state.json", "plan.json", "pod.json"
UNSEEN = "the pod's supervisor ended before the container did: how it ended was not seen"
T = TypeVar("T")


class PodRecord(msgspec.Struct):
    """A sandbox as it was asked for."""

    id: str
    created_at_ns: int
    config: SandboxConfig
    address: str = ""


class PodState(msgspec.Struct):
    """Written once the pod is ready."""

    pid: int = 0
    ips: list[str] = []


class ContainerRecord(msgspec.Struct):
    """A container as it was asked for."""

    id: str
    created_at_ns: int
    config: ContainerConfig
    image_id: str
    chain: str
    stop_signal: int
    cgroup: str
    log: str


class ContainerState(msgspec.Struct):
    """How a container goes; not there: created."""

    pid: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    oom: bool = False
    error: str = ""
    unseen: bool = False


class Disk:
    """The folders of all pods."""

    def __init__(self, folder: Path) -> None:
        self.pods = folder / "sandboxes"
        self._pod_of: dict[str, str] = {}  # container -> sandbox: where to look first

    def pod(self, sandbox_id: str) -> Path:
        """Return the pod's folder. Raises NoSuch."""
        folder = self.pods / sandbox_id
        if not sandbox_id.isalnum() or not (folder / RECORD).is_file():
            raise NoSuch(f"sandbox {sandbox_id} does not exist")
        return folder

    def container(self, container_id: str) -> Path:
        """Return the container's folder. Raises NoSuch."""
        if container_id.isalnum():
            guess = [self._pod_of[container_id]] if container_id in self._pod_of else []
            for name in (*guess, *_names(self.pods)):
                folder = self.pods / name / "containers" / container_id
                if (folder / RECORD).is_file():
                    self._pod_of[container_id] = name
                    return folder
        self._pod_of.pop(container_id, None)
        raise NoSuch(f"container {container_id} does not exist")

    def pod_folders(self) -> Iterator[Path]:
        """Yield the folder of each pod that has been ready once."""
        for name in _names(self.pods):
            folder = self.pods / name
            if (folder / STATE).is_file() and (folder / RECORD).is_file():
                yield folder

    def container_folders(self, pod: Path) -> Iterator[Path]:
        for name in _names(pod / "containers"):
            folder = pod / "containers" / name
            if (folder / RECORD).is_file():
                yield folder

    def chains(self) -> set[str]:
        """Return the roots that containers stand on."""
        found = set()
        for pod in self.pod_folders():
            for folder in self.container_folders(pod):
                with suppress(OSError, msgspec.MsgspecError):
                    found.add(load(folder / RECORD, ContainerRecord).chain)
        return found


def sandbox(folder: Path, *, full: bool) -> Sandbox:
    """Return the pod as it is now. Raises NoSuch."""
    record = load(folder / RECORD, PodRecord)
    config, state = record.config, load(folder / STATE, PodState)
    alive = wire.lives(folder)
    return Sandbox(
        id=record.id,
        namespace=config.namespace,
        name=config.name,
        uid=config.uid,
        attempt=config.attempt,
        state=State.RUNNING if alive else State.EXITED,
        created_at_ns=record.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
        ips=tuple(state.ips) if full and alive else (),
    )


def container(folder: Path) -> Container:
    """Return the container as it is now. Raises NoSuch."""
    record = load(folder / RECORD, ContainerRecord)
    config, state = record.config, state_of(folder)
    now = State.CREATED if state is None else State.EXITED if state.finished_at_ns else State.RUNNING
    state = state or ContainerState()
    reason = ""
    if now is State.EXITED:
        reason = (
            "OOMKilled"
            if state.oom
            else "StartError"
            if state.error
            else "Completed"
            if not state.exit_code
            else "Error"
        )
    return Container(
        id=record.id,
        sandbox_id=folder.parent.parent.name,
        name=config.name,
        attempt=config.attempt,
        state=now,
        created_at_ns=record.created_at_ns,
        image=config.image,
        image_ref=record.image_id,
        labels=config.labels,
        annotations=config.annotations,
        started_at_ns=state.started_at_ns,
        finished_at_ns=state.finished_at_ns,
        exit_code=state.exit_code,
        reason=reason,
        message=state.error or (UNSEEN if state.unseen else ""),
        log_path=record.log,
    )


def state_of(folder: Path) -> ContainerState | None:
    """Return the state, None when the container never started."""
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=ContainerState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def load(path: Path, kind: type[T]) -> T:
    """Raises NoSuch."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise NoSuch(f"{path.parent.name} does not exist, or is damaged: {error}") from error


def save(path: Path, data: bytes) -> None:
    """Write whole or not at all, also after a power cut. Raises OSError."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_plan(folder: Path, memory: Path | None, data: bytes) -> None:
    """Write what a container is started with, secrets among it: below ``memory``, and a link to it on disk. Raises OSError."""
    plan = folder / PLAN
    if memory is not None:
        memory.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan.symlink_to(memory / f"{folder.name}.json")  # first: what is linked is found and deleted
        plan = plan.readlink()
    with os.fdopen(os.open(plan, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def limit_plan(folder: Path, limits: dict[str, int]) -> None:
    """Let a container that is yet to start do so with ``limits``; without a plan it never will. Raises OSError."""
    plan = (folder / PLAN).resolve()
    with suppress(FileNotFoundError):
        save(plan, msgspec.json.encode({**msgspec.json.decode(plan.read_bytes()), "limits": limits}))


def delete(folder: Path) -> None:
    """Delete a folder with a record, and the plans of its containers. Raises OSError."""
    for plan in (folder / PLAN, *folder.glob(f"containers/*/{PLAN}")):
        if plan.is_symlink():
            plan.readlink().unlink(missing_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # from here on it does not exist any more
    trees.remove(folder)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []

"""One pod as the runtime last showed it, and what this process remembers beside it (plain data)."""

from dataclasses import dataclass, field
from typing import NamedTuple

from edgecore.pods.backoff import CrashBackoff
from edgecore.pods.runtime import Container, Sandbox, State
from edgecore.pods.specs import Json

ALIVE = (State.RUNNING, State.UNKNOWN)


class Waiting(NamedTuple):
    """Why something has not started."""

    reason: str
    message: str


class Ended(NamedTuple):
    """Why the whole pod was ended by the node: it is Failed and stays so."""

    reason: str
    message: str


class Kill(NamedTuple):
    """A container that must be stopped although the pod goes on."""

    container_id: str
    message: str
    restart: bool  # whatever its exit code is
    forgiven: bool = False  # a person asked: no back-off
    grace_s: float | None = None  # None: the pod's own


@dataclass(slots=True)
class Seen:
    """Sandboxes and containers by id."""

    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)

    def newest_sandbox(self) -> Sandbox | None:
        return max(self.sandboxes.values(), key=lambda s: (s.attempt, s.created_at_ns), default=None)

    def live_sandbox(self) -> Sandbox | None:
        """The newest sandbox, when it runs."""
        newest = self.newest_sandbox()
        return newest if newest is not None and newest.state is State.RUNNING else None

    def of(self, name: str) -> list[Container]:
        """Every container of that name, newest first."""
        found = [c for c in self.containers.values() if c.name == name]
        return sorted(found, key=lambda c: (c.attempt, c.created_at_ns), reverse=True)

    def newest(self, name: str) -> Container | None:
        found = self.of(name)
        return found[0] if found else None

    def alive(self) -> list[Container]:
        return [c for c in self.containers.values() if c.state in ALIVE]


@dataclass(slots=True)
class Held:
    """What this process remembers of one container name."""

    backoff: CrashBackoff = field(default_factory=CrashBackoff)
    trouble: Waiting | None = None  # why the last attempt to start it failed
    retry_at_s: float = float("-inf")  # of such an attempt
    kill: Kill | None = None
    least_attempt: int = 0  # the runtime lost earlier ones that the status still tells of
    container_id: str = ""  # which container started, ready, started_at_s and given are about
    started: bool = False  # its startup probe passed, or it has none
    ready: bool = False
    started_at_s: float = 0.0  # monotonic; of an adopted one: when it was found
    promised: Json | None = None  # requests and limits that this node has agreed to
    given: Json | None = None  # those that the container of ``container_id`` has

    def about(self, container_id: str, *, started: bool, ready: bool, now_s: float, given: Json | None = None) -> None:
        """Begin anew for another container."""
        self.container_id, self.started, self.ready, self.started_at_s = container_id, started, ready, now_s
        self.given = given


@dataclass(slots=True)
class Memory:
    """What this process remembers of one pod."""

    containers: dict[str, Held] = field(default_factory=dict)
    ended: Ended | None = None
    admitted: bool = False
    trouble: Waiting | None = None  # volumes or sandbox could not be made
    retry_at_s: float = float("-inf")
    sandbox_failures: int = 0  # in a row; each may have left a sandbox of its attempt behind
    resize: Waiting | None = None  # why other resources cannot be promised now
    resize_failed: str = ""  # why the runtime did not take them
    resize_at_s: float = float("-inf")  # of the next try
    stopping: dict[str, float] = field(default_factory=dict)  # container id -> by when (monotonic) it must be gone
    stop_by_s: float | None = None  # the pod is being deleted
    end_by_s: float | None = None  # the pod was ended, or only its sidecars are left
    active_since_s: float | None = None  # monotonic, moved back by the time it ran before this process
    start_time: str = ""  # RFC 3339
    messages: dict[str, str] = field(default_factory=dict)  # container id -> termination message
    released: bool = False  # its volumes hold nothing any more
    forgotten: bool = False  # everything of it is gone from this node

    def held(self, name: str) -> Held:
        return self.containers.setdefault(name, Held())

"""Container statuses exactly as kubelet shows them (pure; POD-10)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edgecore.pods import resize, specs
from edgecore.pods.backoff import shown
from edgecore.pods.marks import IMAGE
from edgecore.pods.plan import restarts
from edgecore.pods.runtime import Container, State
from edgecore.pods.seen import Held, Memory, Seen
from edgecore.pods.specs import Json
from proto.kit.clock import rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOST = "The container could not be located when the pod was terminated"


@dataclass(frozen=True, slots=True)
class Looked:
    """All that a status is made of."""

    pod: Json
    seen: Seen
    memory: Memory
    before: Json  # the status as it was last written
    runtime: str  # name, as in containerID's scheme
    now_s: float
    now: str  # RFC 3339

    def earlier(self, name: str) -> Json:
        """The status of that container as last written."""
        for part in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
            for status in self.before.get(part) or []:
                if status.get("name") == name:
                    return dict(status)
        return {}


def at(ns: int) -> str | None:
    """RFC 3339 of the runtime's nanoseconds; None for not yet."""
    return rfc3339(EPOCH + timedelta(microseconds=ns // 1000)) if ns > 0 else None


def container_statuses(look: Looked, containers: list[Json], *, of_init: bool = False) -> list[Json]:
    """One status for each container of the spec, in its order."""
    return [container_status(look, container, of_init=of_init) for container in containers]


def container_status(look: Looked, container: Json, *, of_init: bool = False) -> Json:
    name = container["name"]
    held = look.memory.held(name)
    history = look.seen.of(name)
    now = history[0] if history else None
    state = _state(look, container, now, held, of_init=of_init)
    running = now is not None and "running" in state
    about = now is not None and held.container_id == now.id
    image = container.get("image", "")
    out: dict[str, Any] = {
        "name": name,
        "state": state,
        "lastState": _last_state(look, name, history, state),
        "ready": _is_ready(container, now, held, running=running and about, of_init=of_init),
        "restartCount": now.attempt if now is not None else _lost_attempts(look, name, held),
        "image": (now.annotations.get(IMAGE) or image) if now is not None else image,
        "imageID": now.image_ref if now is not None else "",
        "started": running and about and held.started,
    }
    if now is not None:
        out |= resize.shown(container, look.memory, running=running and about)
        out["containerID"] = f"{look.runtime}://{now.id}"
    return out


def _lost_attempts(look: Looked, name: str, held: Held) -> int:
    return max(held.least_attempt - 1, int(look.earlier(name).get("restartCount") or 0), 0)


def _is_ready(container: Json, now: Container | None, held: Held, *, running: bool, of_init: bool) -> bool:
    if of_init and not specs.is_sidecar(container):
        return now is not None and now.state is State.EXITED and now.exit_code == 0
    return running and held.started and held.ready


def _state(look: Looked, container: Json, now: Container | None, held: Held, *, of_init: bool) -> Json:
    if now is not None and now.state is State.RUNNING:
        return {"running": {"startedAt": at(now.started_at_ns)}}
    pending = look.memory.ended is None and look.memory.stop_by_s is None
    ended = now is not None and now.state is State.EXITED
    if pending and held.trouble is not None and not (ended and now is not None and not _again(look, container, now)):
        return waiting(*held.trouble)
    if now is None or now.state is not State.EXITED:
        return _not_yet(look, container, of_init=of_init)
    if pending and _again(look, container, now, of_init=of_init) and held.backoff.next_at_s > look.now_s:
        namespace, pod = specs.name_of(look.pod)
        wait = shown(held.backoff.delay_s)
        what = f"{pod}_{namespace}({specs.uid_of(look.pod)})"
        return waiting(
            "CrashLoopBackOff", f"back-off {wait} restarting failed container={container['name']} pod={what}"
        )
    return {"terminated": terminated(look, now)}


def _again(look: Looked, container: Json, last: Container, *, of_init: bool = False) -> bool:
    if of_init and not specs.is_sidecar(container):
        return last.exit_code != 0 and specs.restart_policy(look.pod) != "Never"
    return restarts(look.pod, container, last, look.memory.held(container["name"]))


def _not_yet(look: Looked, container: Json, *, of_init: bool) -> Json:
    """Why a container that does not exist yet has not started."""
    if look.memory.ended is not None or look.memory.stop_by_s is not None:
        return _gone(look, container["name"]) or waiting(_first_reason(look, of_init=of_init))
    if look.memory.trouble is not None:
        reason, message = look.memory.trouble
        return waiting(_first_reason(look, of_init=of_init) if reason == "FailedMount" else reason, message)
    return waiting(_first_reason(look, of_init=of_init))


def _first_reason(look: Looked, *, of_init: bool) -> str:
    return (
        "PodInitializing"
        if specs.init_containers(look.pod) and (not of_init or look.seen.containers)
        else ("ContainerCreating")
    )


def _gone(look: Looked, name: str) -> Json | None:
    """What is said of a container that ran and that the runtime no longer has."""
    earlier = look.earlier(name)
    state = earlier.get("state") or {}
    if "terminated" in state:
        return dict(state)
    if "running" not in state:
        return None
    return {
        "terminated": {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": LOST,
            "startedAt": state["running"].get("startedAt"),
            "finishedAt": look.now,
            "containerID": earlier.get("containerID", ""),
        }
    }


def _last_state(look: Looked, name: str, history: list[Container], state: Json) -> Json:
    """The end before the state that is shown."""
    dead = [c for c in history if c.state is State.EXITED]
    if "terminated" in state:
        dead = dead[1:]
    if dead:
        return {"terminated": terminated(look, dead[0])}
    if not history and "waiting" in state:
        return _gone(look, name) or dict(look.earlier(name).get("lastState") or {})
    return {}


def terminated(look: Looked, ended: Container) -> Json:
    out: dict[str, Any] = {
        "exitCode": ended.exit_code,
        "reason": ended.reason or ("Completed" if ended.exit_code == 0 else "Error"),
        "startedAt": at(ended.started_at_ns),
        "finishedAt": at(ended.finished_at_ns),
        "containerID": f"{look.runtime}://{ended.id}",
    }
    message = look.memory.messages.get(ended.id) or ended.message
    if message:
        out["message"] = message
    return out


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}

"""Short words for tables: pods, sandboxes and containers as the runtime would show them."""

from typing import Any

from edgecore.pods.marks import IMAGE, SPEC_HASH, spec_hash
from edgecore.pods.plan import Plan
from edgecore.pods.runtime import Container, Sandbox, State
from edgecore.pods.seen import Memory, Seen
from edgecore.pods.statuses import Looked
from tests.kit.pods import container, pod, uid_of

Json = dict[str, Any]
NOW_S = 1000.0
NOW = "2026-01-01T00:00:00Z"
SECOND_NS = 1_000_000_000
__all__ = ["NOW", "NOW_S", "box", "container", "look", "made", "memory", "pod", "seen", "steps"]


def box(attempt: int = 0, state: State = State.RUNNING) -> Sandbox:
    return Sandbox(f"s{attempt}", "default", "web", uid_of("web"), attempt, state, attempt, ips=("10.88.0.2",))


def made(
    spec: Json, state: State = State.RUNNING, attempt: int = 0, *, code: int = 0, sandbox: str = "s0"
) -> Container:
    """A container made from ``spec``; it ran for a second."""
    ended = state is State.EXITED
    return Container(
        f"{spec['name']}-{attempt}",
        sandbox,
        spec["name"],
        attempt,
        state,
        attempt + 1,
        image_ref="sha256:1",
        annotations={SPEC_HASH: spec_hash(spec), IMAGE: spec["image"]},
        started_at_ns=SECOND_NS,
        finished_at_ns=2 * SECOND_NS if ended else 0,
        exit_code=code,
    )


def seen(*things: Sandbox | Container) -> Seen:
    return Seen(
        {t.id: t for t in things if isinstance(t, Sandbox)}, {t.id: t for t in things if isinstance(t, Container)}
    )


def memory(shown: Seen, *, ready: bool = True) -> Memory:
    """What a process remembers that started all of ``shown``, an hour ago."""
    out = Memory(admitted=True, start_time=NOW, active_since_s=NOW_S - 3600)
    for one in sorted(shown.containers.values(), key=lambda c: c.attempt):
        if one.state is State.RUNNING:
            out.held(one.name).about(one.id, started=True, ready=ready, now_s=NOW_S - 3600)
    return out


def steps(plan: Plan) -> list[str]:
    """``Start main 1``, ``Stop main-0``, ``RunSandbox 0`` ..."""
    out = []
    for step in plan.steps:
        detail = [str(getattr(step, f)) for f in ("name", "attempt") if hasattr(step, f)]
        if hasattr(step, "id"):
            detail = [step.id]
        out.append(" ".join([type(step).__name__, *detail]))
    return out


def look(obj: Json, shown: Seen, remembered: Memory, before: Json | None = None, now_s: float = NOW_S) -> Looked:
    return Looked(obj, shown, remembered, before or {}, "containerd", now_s, NOW)

"""What to do next for one pod: from its object, what the runtime has and what is remembered, to steps (pure; POD-3 to POD-8).

Asked again after each step and at ``wake_s``; the same input gives the same plan, and a pod that is as it should be gives none.
"""

from dataclasses import dataclass, field

from edgecore.pods import eviction, resize, specs
from edgecore.pods.marks import SPEC_HASH, spec_hash
from edgecore.pods.runtime import Container, Sandbox, State
from edgecore.pods.seen import ALIVE, Held, Memory, Seen
from edgecore.pods.specs import Json

DEAD_KEPT = 1  # ended containers kept per name beside the current one, for ``logs --previous``


@dataclass(frozen=True, slots=True)
class RunSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class Start:
    """Create and start container ``name``; ``crashed``: it follows one that ended."""

    name: str
    attempt: int
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask container ``id`` to end; kill it at ``by_s`` (monotonic)."""

    id: str
    name: str
    by_s: float
    message: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an ended container."""

    id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of the pod runs: drop its volumes and say so."""


@dataclass(frozen=True, slots=True)
class Resize:
    """Give a running container the resources that it was promised."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing of an ended pod runs: drop what its volumes hold on this node."""


Step = RunSandbox | StopSandbox | RemoveSandbox | Start | Stop | Remove | Forget | Resize | Release


@dataclass(slots=True)
class Plan:
    """``steps`` in order; ``wake_s`` (monotonic) when to ask again, None: when something happens."""

    steps: list[Step] = field(default_factory=list)
    wake_s: float | None = None

    def wake(self, at_s: float) -> None:
        self.wake_s = at_s if self.wake_s is None else min(self.wake_s, at_s)


def plan(pod: Json, seen: Seen, memory: Memory, now_s: float) -> Plan:
    """Return what is to be done now for a pod that is to run, to end, or to vanish."""
    out = Plan()
    if memory.stop_by_s is not None:
        if _end(pod, seen, memory, memory.stop_by_s, out):
            out.steps += [RemoveSandbox(s.id) for s in seen.sandboxes.values()]
            out.steps += [Remove(c.id) for c in seen.containers.values() if c.sandbox_id not in seen.sandboxes]
            out.steps.append(Forget())
        return out
    if memory.ended is not None or is_finished(pod, seen, memory):
        by_s = memory.end_by_s if memory.end_by_s is not None else now_s + specs.grace_s(pod)
        if _end(pod, seen, memory, by_s, out):
            _give_back(seen, memory, now_s, out)
    else:
        _run(_Look(pod, seen, memory, now_s, out))
    _tidy(seen, out)
    return out


def is_finished(pod: Json, seen: Seen, memory: Memory) -> bool:
    """Whether every main container ended for good, or an init container failed for good."""
    if specs.restart_policy(pod) == "Always":
        return False
    never = specs.restart_policy(pod) == "Never"
    for container in specs.init_containers(pod):
        last = seen.newest(container["name"])
        failed = last is not None and last.state is State.EXITED and last.exit_code != 0
        if never and failed and not specs.is_sidecar(container) and not has_begun(pod, seen):
            return True
    ends = [seen.newest(c["name"]) for c in specs.main_containers(pod)]
    return bool(ends) and all(
        last is not None
        and last.state is State.EXITED
        and not restarts(pod, container, last, memory.held(container["name"]))
        for container, last in zip(specs.main_containers(pod), ends, strict=True)
    )


def restarts(pod: Json, container: Json, last: Container, held: Held) -> bool:
    """Whether ``last``, which ended, is followed by another one (POD-5)."""
    if specs.is_sidecar(container):
        return True
    if held.kill is not None and held.kill.container_id == last.id and held.kill.restart:
        return True
    if changed(container, last):
        return True
    policy = specs.restart_policy(pod)
    return policy == "Always" or (policy == "OnFailure" and last.exit_code != 0)


def changed(container: Json, running: Container) -> bool:
    """Whether the spec is another than the one this container was made from; one without our mark is left alone."""
    mark = running.annotations.get(SPEC_HASH)
    return mark is not None and mark != spec_hash(container)


def has_begun(pod: Json, seen: Seen) -> bool:
    """Whether a main container was ever made in the sandbox that is there now: then its init containers are done."""
    newest = seen.newest_sandbox()
    names = {c["name"] for c in specs.main_containers(pod)}
    return newest is not None and any(
        c.sandbox_id == newest.id and c.name in names and c.state is not State.CREATED for c in seen.containers.values()
    )


class _Look:
    """One pass over a pod that is to run."""

    def __init__(self, pod: Json, seen: Seen, memory: Memory, now_s: float, out: Plan) -> None:
        self.pod, self.seen, self.memory, self.now_s, self.out = pod, seen, memory, now_s, out
        self.sandbox: Sandbox | None = seen.live_sandbox()

    def here(self, name: str) -> Container | None:
        """The newest container of that name in the sandbox that runs."""
        sandbox = self.sandbox
        return next((c for c in self.seen.of(name) if sandbox is not None and c.sandbox_id == sandbox.id), None)


def _run(look: _Look) -> None:
    deadline = look.pod["spec"].get("activeDeadlineSeconds")
    if deadline is not None and look.memory.active_since_s is not None:
        look.out.wake(look.memory.active_since_s + float(deadline))
    if look.memory.resize is not None and look.memory.resize.reason == resize.DEFERRED:
        look.out.wake(look.now_s + resize.RETRY_S)
    if look.sandbox is None:
        _new_sandbox(look)
        return
    for old in look.seen.sandboxes.values():
        if old.id != look.sandbox.id and old.state is State.RUNNING:
            look.out.steps.append(StopSandbox(old.id))
    if not _initialised(look):
        return
    for container in specs.main_containers(look.pod):
        _keep(look, container)
    for container in specs.ephemeral_containers(look.pod):
        if look.seen.newest(container["name"]) is None:
            _start(look, container)


def _new_sandbox(look: _Look) -> None:
    """The sandbox died or was never there: what lived in it is over, another one comes with attempt + 1 (POD-4)."""
    look.out.steps += [
        Stop(c.id, c.name, look.now_s, f"Stopping container {c.name}")
        for c in look.seen.alive()
        if c.id not in look.memory.stopping
    ]
    newest = look.seen.newest_sandbox()
    if look.memory.retry_at_s > look.now_s:
        look.out.wake(look.memory.retry_at_s)
        return
    if newest is not None:
        look.out.steps.append(StopSandbox(newest.id))  # frees its network, and is no error when that is done
    if not look.seen.alive():
        attempt = newest.attempt + 1 if newest is not None else 0
        look.out.steps.append(RunSandbox(attempt + look.memory.sandbox_failures))


def _initialised(look: _Look) -> bool:
    """Move the init containers along in order; return whether the main ones may run."""
    begun = has_begun(look.pod, look.seen)
    for container in specs.init_containers(look.pod):
        name = container["name"]
        now = look.here(name)
        if specs.is_sidecar(container):
            _keep(look, container)
            held = look.memory.held(name)
            up = now is not None and now.state is State.RUNNING and held.container_id == now.id and held.started
            if not up and not begun:
                return False
        elif begun:
            continue
        elif now is None or now.state is not State.EXITED or now.exit_code != 0:
            if now is None or now.state is not State.RUNNING:
                _start(look, container)
            return False
    return True


def _keep(look: _Look, container: Json) -> None:
    """Keep one container as it should be: running, replaced when its spec changed, restarted by policy."""
    name = container["name"]
    held = look.memory.held(name)
    now = look.here(name)
    if now is None:
        last = look.seen.newest(name)
        if last is None or last.state is not State.EXITED or restarts(look.pod, container, last, held):
            _start(look, container)
    elif now.state is State.RUNNING:
        _check_running(look, container, now, held)
    elif now.state is State.UNKNOWN:
        _stop(look, now, look.now_s, f"Container {name} is in unknown state, try killing it before restart")
    elif now.state is State.CREATED or restarts(look.pod, container, now, held):
        _start(look, container)


def _check_running(look: _Look, container: Json, now: Container, held: Held) -> None:
    if changed(container, now):
        message = f"Container {now.name} definition changed, will be restarted"
        _stop(look, now, look.now_s + specs.grace_s(look.pod), message)
    elif held.kill is not None and held.kill.container_id == now.id:
        grace_s = specs.grace_s(look.pod) if held.kill.grace_s is None else held.kill.grace_s
        _stop(look, now, look.now_s + grace_s, held.kill.message)
    elif resize.lacking(look.memory, now):
        if look.memory.resize_at_s > look.now_s:
            look.out.wake(look.memory.resize_at_s)
        else:
            look.out.steps.append(Resize(now.id, now.name))


def _start(look: _Look, container: Json) -> None:
    """Start it, or say when: after its back-off, or after a failed attempt to start it."""
    name = container["name"]
    held = look.memory.held(name)
    last = look.seen.newest(name)
    crashed = last is not None and last.state is State.EXITED
    due_s = held.retry_at_s
    if crashed and last is not None and not _is_forgiven(container, last, held):
        due_s = max(due_s, held.backoff.next_at_s)
    if due_s > look.now_s:
        look.out.wake(due_s)
        return
    attempt = max(held.least_attempt, 0 if last is None else last.attempt + 1)
    if last is not None and last.state is State.CREATED:  # here, or in a sandbox that died meanwhile
        look.out.steps.append(Remove(last.id))
        attempt = last.attempt  # it never ran: no restart
    look.out.steps.append(Start(name, attempt, crashed=crashed))


def _is_forgiven(container: Json, last: Container, held: Held) -> bool:
    asked = held.kill is not None and held.kill.container_id == last.id and held.kill.forgiven
    return asked or changed(container, last)


def _stop(look: _Look, container: Container, by_s: float, message: str) -> None:
    if container.id not in look.memory.stopping:
        look.out.steps.append(Stop(container.id, container.name, by_s, message))


def _end(pod: Json, seen: Seen, memory: Memory, by_s: float, out: Plan) -> bool:
    """Stop the main containers together, then the sidecars last first, then the sandboxes. True: nothing runs (POD-7)."""
    order = [c["name"] for c in specs.sidecars(pod)]
    alive = seen.alive()
    first = [c for c in alive if c.name not in order]
    last = sorted((c for c in alive if c.name in order), key=lambda c: order.index(c.name))
    for container in first or last[-1:]:
        under_way = memory.stopping.get(container.id)
        if under_way is None or by_s < under_way:
            out.steps.append(Stop(container.id, container.name, by_s, f"Stopping container {container.name}"))
    if alive:
        return False
    out.steps += [StopSandbox(s.id) for s in seen.sandboxes.values() if s.state is State.RUNNING]
    return True


def _give_back(seen: Seen, memory: Memory, now_s: float, out: Plan) -> None:
    """The disk gets back what an ended pod has written; of one that was evicted for that what its containers wrote, too (POD-15)."""
    if memory.ended is None:
        return
    if eviction.for_disk(memory.ended):
        out.steps += [Remove(c.id) for c in seen.containers.values()]
    if memory.released:
        return
    if memory.retry_at_s > now_s:
        out.wake(memory.retry_at_s)
    else:
        out.steps.append(Release())


def _tidy(seen: Seen, out: Plan) -> None:
    """Remove ended containers that nobody asks for any more, and dead sandboxes that hold none (POD-11)."""
    gone = set()
    for name in {c.name for c in seen.containers.values()}:
        for container in seen.of(name)[1 + DEAD_KEPT :]:
            if container.state not in ALIVE:
                gone.add(container.id)
                out.steps.append(Remove(container.id))
    newest = seen.newest_sandbox()
    for sandbox in seen.sandboxes.values():
        holds = any(c.sandbox_id == sandbox.id and c.id not in gone for c in seen.containers.values())
        if newest is not None and sandbox.id != newest.id and not holds and sandbox.state is not State.RUNNING:
            out.steps.append(RemoveSandbox(sandbox.id))

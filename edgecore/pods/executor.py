"""Carries out the steps of a plan: runtime calls with bounded parallelism, the builder's preparations, hooks, events.

A step that fails leaves a reason in the pod's memory, from which status and next plan follow; only RuntimeAway is raised.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgecore.pods import marks, resize, specs
from edgecore.pods.entry import Entry
from edgecore.pods.events import PodEvents
from edgecore.pods.observer import Observer
from edgecore.pods.plan import (
    Forget,
    Release,
    Remove,
    RemoveSandbox,
    Resize,
    RunSandbox,
    Start,
    Step,
    Stop,
    StopSandbox,
)
from edgecore.pods.runtime import (
    ContainerConfig,
    ContainerRuntime,
    Image,
    Resources,
    RuntimeAway,
    RuntimeRefused,
    SandboxConfig,
)
from edgecore.pods.seen import Held, Kill, Waiting
from edgecore.pods.specs import Json
from edgecore.pods.unready import Unready
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, SkerryError
from proto.kit.log import Logger

log = Logger("pods")
T = TypeVar("T")
RETRY_S = 10.0  # what lacks may come any time; its arrival also wakes the pod
MOST_RETRY_S = 60.0
SETTLE_S = 1.0  # for a sandbox that dies after its containers
KILLED = (128 + 9, 128 + 15)  # exit codes after SIGKILL and SIGTERM
LEAST_GRACE_S = 2  # after a preStop hook used the time up, as kubelet's


class Builder(Protocol):
    """What makes configurations and files out of pods (edgecore.pods.build)."""

    def sandbox(self, pod: Json, attempt: int) -> SandboxConfig: ...
    async def prepare(self, pod: Json) -> None: ...
    async def ensure_image(self, pod: Json, container: Json) -> Image: ...
    def container(
        self, pod: Json, container: Json, *, attempt: int, image: Image, ips: tuple[str, ...], sandbox: SandboxConfig
    ) -> ContainerConfig: ...
    def resources(self, pod: Json, container: Json) -> Resources: ...
    async def refresh(self, pod: Json) -> None: ...
    def forgive(self, uid: str) -> None: ...
    async def release(self, uid: str) -> None: ...
    async def forget(self, uid: str) -> None: ...
    def orphans(self) -> set[str]: ...


class Hooks(Protocol):
    """Life-cycle hooks: an error text, empty when it went well."""

    async def run(self, pod: Json, container: Json, hook: Json, container_id: str, timeout_s: float | None) -> str: ...


class Interrupted(Exception):
    """The pod is wanted otherwise now: plan again."""


class Executor:
    """One per node."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        builder: Builder,
        observer: Observer,
        events: PodEvents,
        hooks: Hooks,
        *,
        clock: Clock,
        node: str,
        parallel: int,
    ) -> None:
        self._runtime, self._builder, self._observer = runtime, builder, observer
        self._events, self._hooks, self._clock, self._node = events, hooks, clock, node
        self._slots = asyncio.Semaphore(parallel)
        self.host_ips: Callable[[], tuple[str, ...]] = tuple

    async def carry_out(self, entry: Entry, pod: Json, step: Step) -> None:
        """Do one step (not Stop: see ``stop``). Raises RuntimeAway, Interrupted."""
        match step:
            case RunSandbox(attempt):
                await self._run_sandbox(entry, pod, attempt)
            case Start():
                await self._start(entry, pod, step)
            case StopSandbox(sandbox_id):
                await self._call(self._runtime.stop_sandbox(sandbox_id))
                await self._observer.sandbox(entry.uid, sandbox_id)
            case RemoveSandbox(sandbox_id):
                await self._call(self._runtime.stop_sandbox(sandbox_id))
                await self._call(self._runtime.remove_sandbox(sandbox_id))
                self._observer.removed(entry.uid, sandbox_id)
            case Remove(container_id):
                await self._remove(entry, container_id)
            case Resize():
                await self._resize(entry, pod, step)
            case Release():
                await self._release(entry)
            case Forget():
                await self._forget(entry)

    async def stop(self, entry: Entry, pod: Json, step: Stop, *, first: bool) -> None:
        """Run the preStop hook (``first`` time only), then stop one container. Raises RuntimeAway."""
        found = specs.find(pod, step.name)
        if first:
            self._events.say(pod, "Normal", "Killing", step.message, container=step.name)
            hook = ((found[1].get("lifecycle") or {}) if found is not None else {}).get("preStop")
            left_s = step.by_s - self._clock.now_s()
            if hook is not None and found is not None and left_s > 0:
                await self._pre_stop(pod, found[1], hook, step, left_s)
        grace_s = round(step.by_s - self._clock.now_s())
        least = LEAST_GRACE_S if specs.grace_s(pod) >= LEAST_GRACE_S else 0
        with suppress(RuntimeRefused):  # the next look shows whether it still runs
            await self._runtime.stop_container(step.id, max(least, grace_s))
        await self._observer.container(entry.uid, step.id)

    def forgive(self, entry: Entry, held: Held) -> None:
        """Let a container that waits for its next try have it at once."""
        held.backoff.forgive()
        held.retry_at_s = entry.memory.retry_at_s = float("-inf")
        self._builder.forgive(entry.uid)

    def leftovers(self) -> set[str]:
        """Uids of pods that have files on this node."""
        return self._builder.orphans()

    # steps

    async def _run_sandbox(self, entry: Entry, pod: Json, attempt: int) -> None:
        memory = entry.memory
        try:
            await self._prepare(entry, pod)
            config = self._builder.sandbox(pod, attempt)
            config = replace(
                config,
                attempt=attempt,
                labels={**config.labels, **marks.pod_labels(pod, self._node)},
                annotations={**config.annotations, marks.GRACE_S: str(specs.grace_s(pod))},
            )
            async with self._slots:
                sandbox_id = await self._runtime.run_sandbox(config)
        except Unready as error:
            self._pod_waits(entry, pod, error.reason, error.message, error.retry_after_s)
        except RuntimeRefused as error:
            memory.sandbox_failures += 1
            wait_s = min(MOST_RETRY_S, 2.0 ** min(memory.sandbox_failures, 6))
            text = f"Failed to create pod sandbox: {error}"
            self._pod_waits(entry, pod, "FailedCreatePodSandBox", text, wait_s)
        else:
            memory.trouble, memory.sandbox_failures = None, 0
            await self._observer.sandbox(entry.uid, sandbox_id)

    async def _prepare(self, entry: Entry, pod: Json) -> None:
        if not entry.prepared:
            await self._unless_hurried(entry, self._builder.prepare(pod))
            entry.prepared = True

    def _pod_waits(self, entry: Entry, pod: Json, reason: str, message: str, retry_s: float | None) -> None:
        entry.memory.trouble = Waiting("ContainerCreating", message)
        entry.memory.retry_at_s = self._clock.now_s() + (RETRY_S if retry_s is None else retry_s)
        self._events.say(pod, "Warning", reason, message)

    async def _start(self, entry: Entry, pod: Json, step: Start) -> None:
        found = specs.find(pod, step.name)
        sandbox = self._observer.of(entry.uid).live_sandbox()
        if step.crashed and sandbox is not None:  # did it end because the sandbox did?
            if self._was_killed(entry, step.name):
                await self._unless_hurried(entry, self._clock.sleep(SETTLE_S))
            await self._observer.sandbox(entry.uid, sandbox.id)
            sandbox = self._observer.of(entry.uid).live_sandbox()
        if found is None or sandbox is None:
            return
        pod = resize.as_promised(pod, entry.memory)
        container, held = resize.promised(found[1], entry.memory), entry.memory.held(step.name)
        try:
            await self._prepare(entry, pod)
            image = await self._unless_hurried(entry, self._builder.ensure_image(pod, container))
            ips = self.host_ips() if specs.is_host_network(pod) else sandbox.ips
            config = self._builder.sandbox(pod, sandbox.attempt)
            made = self._builder.container(pod, container, attempt=step.attempt, image=image, ips=ips, sandbox=config)
            async with self._slots:
                container_id = await self._make(entry, pod, container, step, made, sandbox.id, config)
        except Unready as error:
            self._container_waits(held, error.reason, error.message, error.retry_after_s)
            if error.reason not in {"ErrImagePull", "ImagePullBackOff"}:  # those are told by whoever pulls
                self._events.say(pod, "Warning", "Failed", f"Error: {error.message}", container=step.name)
            return
        except RuntimeRefused as error:
            reason = error.reason or "CreateContainerError"
            self._container_waits(held, reason, str(error), None)
            self._events.say(pod, "Warning", "Failed", f"Error: {error}", container=step.name)
            await self._check_sandbox(entry, held, sandbox.id)
            return
        if step.crashed:
            held.backoff.restarting()
        if container_id:
            held.trouble = None
            await self._post_start(entry, pod, container, container_id)

    def _was_killed(self, entry: Entry, name: str) -> bool:
        """By a signal, from outside: whoever did that may be about to end the sandbox as well."""
        last, kill = self._observer.of(entry.uid).newest(name), entry.memory.held(name).kill
        if last is None or last.exit_code not in KILLED or last.reason == "OOMKilled":
            return False
        return kill is None or kill.container_id != last.id

    async def _make(
        self,
        entry: Entry,
        pod: Json,
        container: Json,
        step: Start,
        made: ContainerConfig,
        sandbox_id: str,
        sandbox: SandboxConfig,
    ) -> str:
        """Create and start; return the id, "" when it was made but does not run. Raises RuntimeRefused."""
        wanted = container.get("terminationMessagePath", "/dev/termination-log")
        term = next((m.host_path for m in made.mounts if m.container_path == wanted), "")
        made = replace(
            made,
            attempt=step.attempt,
            labels={**made.labels, **marks.container_labels(pod, container, self._node)},
            annotations={**made.annotations, **marks.container_annotations(pod, container, step.attempt, term)},
        )
        container_id = await self._runtime.create_container(sandbox_id, made, sandbox)
        self._events.say(pod, "Normal", "Created", f"Created container: {step.name}", container=step.name)
        try:
            await self._runtime.start_container(container_id)
        except RuntimeRefused as error:
            held = entry.memory.held(step.name)
            await self._observer.container(entry.uid, container_id)
            self._container_waits(held, error.reason or "RunContainerError", str(error), None)
            self._events.say(pod, "Warning", "Failed", f"Error: {error}", container=step.name)
            await self._check_sandbox(entry, held, sandbox_id)
            return ""
        await self._observer.container(entry.uid, container_id)
        self._began(entry, container, container_id)
        self._events.say(pod, "Normal", "Started", f"Started container {step.name}", container=step.name)
        return container_id

    async def _check_sandbox(self, entry: Entry, held: Held, sandbox_id: str) -> None:
        """A start that failed because the sandbox died needs no patience, but another sandbox."""
        await self._observer.sandbox(entry.uid, sandbox_id)
        if self._observer.of(entry.uid).live_sandbox() is None:
            held.retry_at_s = float("-inf")

    def _began(self, entry: Entry, container: Json, container_id: str) -> None:
        entry.memory.held(container["name"]).about(
            container_id,
            started=not container.get("startupProbe"),
            ready=not container.get("readinessProbe"),
            now_s=self._clock.now_s(),
            given=resize.resources_of(container),
        )

    def _container_waits(self, held: Held, reason: str, message: str, retry_s: float | None) -> None:
        held.trouble = Waiting(reason, message)
        held.retry_at_s = self._clock.now_s() + (RETRY_S if retry_s is None else retry_s)

    async def _remove(self, entry: Entry, container_id: str) -> None:
        gone = self._observer.of(entry.uid).containers.get(container_id)
        await self._call(self._runtime.remove_container(container_id))
        self._observer.removed(entry.uid, container_id)
        entry.memory.messages.pop(container_id, None)
        if gone is not None and gone.log_path:
            path = Path(gone.log_path)
            with suppress(OSError):
                for file in path.parent.glob(f"{path.name}*"):
                    file.unlink(missing_ok=True)

    async def _resize(self, entry: Entry, pod: Json, step: Resize) -> None:
        found, memory = specs.find(pod, step.name), entry.memory
        if found is None:
            return
        wanted = memory.held(step.name).promised
        pod, container = resize.as_promised(pod, memory), resize.promised(found[1], memory)
        try:
            limits = self._builder.resources(pod, container)
            async with self._slots:
                await self._runtime.update_resources(step.id, limits)
        except (Unready, RuntimeRefused) as error:
            memory.resize_failed, memory.resize_at_s = str(error), self._clock.now_s() + resize.RETRY_S
            self._events.say(pod, "Warning", "ResizeError", f"Resize failed: {error}", container=step.name)
        else:
            memory.resize_failed, memory.held(step.name).given = "", wanted
            self._events.say(pod, "Normal", "ResizeCompleted", f"Resized container {step.name}", container=step.name)

    async def _release(self, entry: Entry) -> None:
        try:
            await self._builder.release(entry.uid)
        except Retryable as error:  # a mount that is still busy: later
            log.warning("volumes of an ended pod stay for now", pod=f"{entry.namespace}/{entry.name}", reason=error)
            entry.memory.retry_at_s = self._clock.now_s() + RETRY_S
        else:
            entry.memory.released = True

    async def _forget(self, entry: Entry) -> None:
        try:
            await self._builder.forget(entry.uid)
        except RuntimeAway:
            raise
        except SkerryError as error:  # a mount that is still busy: later
            log.warning("pod directory stays for now", pod=f"{entry.namespace}/{entry.name}", reason=error)
            entry.memory.retry_at_s = self._clock.now_s() + RETRY_S
        else:
            entry.memory.forgotten = True

    # hooks

    async def _post_start(self, entry: Entry, pod: Json, container: Json, container_id: str) -> None:
        hook = (container.get("lifecycle") or {}).get("postStart")
        if hook is None:
            return
        error = await self._unless_hurried(entry, self._hooks.run(pod, container, hook, container_id, None))
        if error:
            name = container["name"]
            self._events.say(pod, "Warning", "FailedPostStartHook", error, container=name)
            again = specs.restart_policy(pod) != "Never"
            entry.memory.held(name).kill = Kill(container_id, f"Container {name} failed its postStart hook", again)

    async def _pre_stop(self, pod: Json, container: Json, hook: Json, step: Stop, left_s: float) -> None:
        error = await self._hooks.run(pod, container, hook, step.id, left_s)
        if error:
            self._events.say(pod, "Warning", "FailedPreStopHook", error, container=step.name)

    # inside

    async def _call(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a call whose refusal the next look shows by itself."""
        try:
            await call
        except RuntimeRefused as error:
            log.warning("the runtime refused", reason=error)

    async def _unless_hurried(self, entry: Entry, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, but give up when the pod is to end: raises Interrupted."""
        loop = asyncio.get_running_loop()
        task, hurry = loop.create_task(work), loop.create_task(entry.hurry.wait())
        try:
            await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Interrupted
        finally:
            hurry.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

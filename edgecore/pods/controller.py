"""The pod controller: looks at one pod at a time per worker, plans, acts, and says what it saw.

Woken by the store's Pods, by the runtime, by probes, timers and a slow full look; every wake leads through the same path, and
so does a cold boot. Reads Pod; status is written by ``writer`` alone. While the runtime is away every pod is left alone.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from edgecore.pods import marks, resize, specs
from edgecore.pods.admission import NodeRoomLeft, refusal
from edgecore.pods.endings import Endings
from edgecore.pods.entry import Entry
from edgecore.pods.events import PodEvents
from edgecore.pods.executor import Executor, Interrupted
from edgecore.pods.observer import Observer
from edgecore.pods.phases import FAILED, SUCCEEDED
from edgecore.pods.plan import Plan, Stop, is_finished, plan, restarts
from edgecore.pods.probes import Probes
from edgecore.pods.reporting import Reporter
from edgecore.pods.runtime import ContainerRuntime, RuntimeAway, RuntimeRefused, State
from edgecore.pods.seen import Ended, Kill, Waiting
from edgecore.pods.specs import Json
from edgecore.pods.timers import Timers, either
from edgecore.pods.writer import Writer
from kubeapi.kinds import POD
from kubeapi.store import Event, Store
from proto.kit import canonical
from proto.kit.clock import Clock
from proto.kit.log import Logger
from proto.told import gate_conditions

log = Logger("pods")
AWAY_S = 1.0  # between two tries to reach a runtime that is away
STUCK_S = 5.0  # before the same steps are tried again
FAILED_S = 60.0  # before a pod is tried again that made us fail
STRAY_S = 60.0  # how long a stranger with our mark must be unknown to a cloud that has told us everything (POD-2)


class PodController:
    """All pods of this node. ``synced``: whether the cloud has told this disk what belongs here."""

    def __init__(  # noqa: PLR0913  the room puts it together, once
        self,
        store: Store,
        runtime: ContainerRuntime,
        observer: Observer,
        executor: Executor,
        reporter: Reporter,
        probes: Probes,
        *,
        writer: Writer,
        events: PodEvents,
        timers: Timers,
        clock: Clock,
        room: Callable[[], NodeRoomLeft],
        synced: Callable[[], bool],
    ) -> None:
        self._store, self._runtime, self._observer, self._executor = store, runtime, observer, executor
        self._reporter, self._probes, self._writer, self.events = reporter, probes, writer, events
        self._timers, self._clock, self._room, self._synced = timers, clock, room, synced
        self.entries: dict[str, Entry] = {}
        self.away = "not looked at yet"  # why the runtime cannot be used; "" while it can
        self.looked_at_s = float("-inf")  # last full look
        self._names: dict[tuple[str, str], str] = {}
        self._strays: dict[str, float] = {}
        self.looked = False  # whether the runtime was asked at all
        self._group: asyncio.TaskGroup | None = None
        self._look_again = asyncio.Event()
        self.endings = Endings(events, clock)
        probes.pod_of, probes.changed = self.pod_of, self.wake
        store.listen(POD, self._stored)
        for stored in store.items(POD, None):
            self._take(stored.object)

    # what others call

    async def run(self, relist_every_s: float) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch_runtime())
            while True:
                self._look_again.clear()
                try:
                    await self._look_at_all()
                except Exception:  # the next look may go well
                    log.exception("full look failed")
                wait_s = AWAY_S if self.away else relist_every_s
                await either(self._look_again, self._clock, wait_s)

    def wake(self, entry: Entry) -> None:
        """Look at this pod soon."""
        entry.dirty = True
        if not entry.working and not entry.done and not self.away and self._group is not None:
            entry.working = True
            self._group.create_task(self._work(entry))

    def wake_namespace(self, namespace: str) -> None:
        """Something that pods of this namespace name has changed: those that wait for it try again now."""
        for entry in self.entries.values():
            if entry.namespace == namespace and self._waits(entry):
                for held in entry.memory.containers.values():
                    held.retry_at_s = float("-inf")
                entry.memory.retry_at_s = float("-inf")
                self.wake(entry)

    def find(self, namespace: str, name: str) -> Entry | None:
        """The pod of that name, as it is in the store."""
        uid = self._names.get((namespace, name))
        return self.entries.get(uid) if uid is not None else None

    def pod_of(self, entry: Entry) -> Json | None:
        """The pod's object: from the store, or the last one there was."""
        stored = self._store.get(POD, entry.namespace, entry.name)
        if stored is not None and specs.uid_of(stored) == entry.uid:
            return stored
        return entry.last

    def end(self, entry: Entry, ended: Ended, *, grace_s: float) -> None:
        """End a pod for good: evicted, over its deadline."""
        if entry.memory.ended is None:
            entry.memory.ended = ended
            entry.memory.end_by_s = self._clock.now_s() + grace_s
            entry.hurry.set()
            self.wake(entry)

    def restart(self, entry: Entry, container: str) -> bool:
        """Stop one container on purpose and start it again; one that waits for its next try is tried now. False: it is over."""
        now, held = self._observer.of(entry.uid).newest(container), entry.memory.held(container)
        if now is not None and now.state is State.RUNNING:
            message = f"Container {container} is restarted on request"
            held.kill = Kill(now.id, message, restart=True, forgiven=True)
        else:
            pod = self.pod_of(entry)
            found = specs.find(pod, container) if pod is not None and not self._is_over(entry, pod) else None
            if pod is None or found is None or (now is not None and not restarts(pod, found[1], now, held)):
                return False
            self._executor.forgive(entry, held)
        self.wake(entry)
        return True

    def look_now(self) -> None:
        """Look at everything now instead of at the next slow turn."""
        self._look_again.set()

    def running(self) -> list[tuple[Entry, Json]]:
        """Every pod that has not ended, with its object."""
        found = ((entry, self.pod_of(entry)) for entry in self.entries.values())
        return [(e, p) for e, p in found if p is not None and e.memory.admitted and not self._is_over(e, p)]

    def _beside(self, entry: Entry) -> list[Json]:
        """The other pods, with what they have been promised."""
        return [resize.as_promised(other, e.memory) for e, other in self.running() if e is not entry]

    # what happens around us

    def _stored(self, event: Event) -> None:
        """A Pod of the store changed. Our own status writes come by here, too, and wake nobody."""
        if event.type == "DELETED":
            self._vanished(event.object)
        else:
            self._take(event.object)

    def _take(self, pod: Json) -> None:
        if specs.is_answered(pod) and not specs.is_deleted(pod):
            return  # its run has been made; only its status is told
        uid, (namespace, name) = specs.uid_of(pod), specs.name_of(pod)
        known = self._names.get((namespace, name))
        if known is not None and known != uid and known in self.entries:
            self._leave(self.entries[known], self.entries[known].last)
        self._names[namespace, name] = uid
        entry = self.entries.get(uid)
        if entry is None:
            entry = self.entries[uid] = Entry(uid, namespace, name)
            self._reporter.recall(entry, pod)
        self._hear(entry, pod)
        digest = canonical.digest(pod) + canonical.encode(gate_conditions(pod))
        if digest == entry.digest:
            return
        entry.digest, entry.last = digest, None
        if specs.is_deleted(pod):
            entry.hurry.set()
        self.wake(entry)
        if self.away and self.looked:
            self._say_away(entry)

    def _hear(self, entry: Entry, pod: Json) -> None:
        """Somebody else has called a pod finished that goes on here: it ends (POD-16)."""
        status = pod.get("status") or {}
        if status.get("phase") in {SUCCEEDED, FAILED} and entry.memory.ended is None:
            log.info("a pod was ended in the cloud", pod=f"{entry.namespace}/{entry.name}", phase=status["phase"])
            ended = Ended(status.get("reason", ""), status.get("message", ""))
            self.end(entry, ended, grace_s=specs.grace_s(pod))

    def _vanished(self, pod: Json) -> None:
        """The object went without asking us (forced, or given to another node): stop with the pod's own grace."""
        entry = self.entries.get(specs.uid_of(pod))
        if entry is not None:
            self._leave(entry, pod)

    def _leave(self, entry: Entry, pod: Json | None) -> None:
        if pod is None:
            pod = {"metadata": {"namespace": entry.namespace, "name": entry.name, "uid": entry.uid}, "spec": {}}
        entry.last = pod
        if self._names.get((entry.namespace, entry.name)) == entry.uid:
            del self._names[entry.namespace, entry.name]
        if entry.memory.stop_by_s is None:
            grace_s = pod["spec"].get("terminationGracePeriodSeconds", specs.DEFAULT_GRACE_S)
            entry.memory.stop_by_s = self._clock.now_s() + grace_s
        entry.hurry.set()
        self.wake(entry)

    async def _watch_runtime(self) -> None:
        """Follow the runtime's hints; the slow look finds what they miss."""
        while True:
            try:
                async for uid in self._runtime.changes():
                    await self._look_at(uid)
            except Exception:  # without hints pods are only slower
                log.exception("hints of the runtime failed")
            await self._clock.sleep(STUCK_S)

    async def _look_at(self, uid: str) -> None:
        entry = self.entries.get(uid)
        if entry is None or self.away:
            return
        try:
            await self._observer.look(uid)
        except RuntimeAway as error:
            self._lost(error)
        except RuntimeRefused as error:
            log.warning("the runtime refused a look", uid=uid, reason=error)
        else:
            self.wake(entry)

    async def _look_at_all(self) -> None:
        """One full look. The first one, and the first after the runtime came back, wake every pod."""
        try:
            changed = await self._observer.relist(self._busy)
        except RuntimeAway as error:
            self.looked = True
            self._lost(error)
            return
        self.looked = True
        self.looked_at_s = self._clock.now_s()
        self._find_strays()
        everything = bool(self.away)
        if everything:
            log.info("container runtime answers", pods=len(self.entries))
            self.away = ""
            for entry in self.entries.values():
                entry.memory.trouble = None
        for entry in list(self.entries.values()):
            if everything or entry.uid in changed or entry.dirty:
                self.wake(entry)

    def _lost(self, error: RuntimeAway) -> None:
        if not self.away:
            log.warning("container runtime is away; pods are left alone", reason=error)
            self._look_again.set()
        self.away = str(error)
        for entry in self.entries.values():
            self._say_away(entry)

    def _say_away(self, entry: Entry) -> None:
        """A pod that has not begun says what it waits for; the others keep the status they have."""
        pod, memory = self.pod_of(entry), entry.memory
        if pod is None or specs.is_deleted(pod) or memory.ended is not None or entry.last is not None:
            return
        status = self._writer.status(entry.uid, entry.namespace, entry.name)
        begun = any(one.get("containerID") for one in status.get("containerStatuses") or [])
        if not begun and not self._observer.of(entry.uid).sandboxes:
            memory.trouble = Waiting("ContainerCreating", f"container runtime is down: {self.away}")
            self._reporter.begin(entry)
            self._reporter.report(entry, pod, self._observer.of(entry.uid))

    def _busy(self) -> Iterable[str]:
        return [e.uid for e in self.entries.values() if e.working or e.stops]

    def _find_strays(self) -> None:
        """Take what carries our mark and has no object: known to this disk, at once; never known, not before the cloud has spoken."""
        now_s, entries = self._clock.now_s(), self.entries
        present = {uid for uid, seen in self._observer.seen.items() if seen.sandboxes or seen.containers}
        strays = {
            uid for uid in present | self._writer.records.keys() | self._executor.leftovers() if uid not in entries
        }
        self._strays = {uid: self._strays.get(uid, now_s) for uid in strays}
        for uid, since_s in self._strays.items():
            if uid in self._writer.records or (self._synced() and now_s - since_s >= STRAY_S):
                self._adopt_stray(uid)

    def _adopt_stray(self, uid: str) -> None:
        seen, record = self._observer.of(uid), self._writer.records.get(uid)
        sandbox = seen.newest_sandbox()
        labels = sandbox.labels if sandbox is not None else next((c.labels for c in seen.containers.values()), {})
        namespace = record.namespace if record is not None else labels.get(marks.POD_NAMESPACE, "")
        name = record.name if record is not None else labels.get(marks.POD_NAME, uid)
        grace = sandbox.annotations.get(marks.GRACE_S, "") if sandbox is not None else ""
        entry = self.entries[uid] = Entry(uid, namespace, name)
        log.info("cleaning up a pod that is no longer wanted", pod=f"{namespace}/{name}", uid=uid)
        spec = {"containers": [], "terminationGracePeriodSeconds": int(grace) if grace.isdigit() else 30}
        self._leave(entry, {"metadata": {"namespace": namespace, "name": name, "uid": uid}, "spec": spec})

    # one pod

    async def _work(self, entry: Entry) -> None:
        last: Plan | None = None
        try:
            while entry.dirty and not self.away:
                entry.dirty = False
                entry.hurry.clear()
                wanted = self._look(entry)
                if last is not None and last.steps == wanted.steps and wanted.steps:
                    self._later(entry, STUCK_S)
                    break
                last = wanted if await self._carry_out(entry, wanted) else None
        except RuntimeAway as error:
            entry.dirty = True
            self._lost(error)
        except Exception:  # one pod must not stop the others
            log.exception("pod failed", pod=f"{entry.namespace}/{entry.name}")
            self._later(entry, FAILED_S)
        finally:
            entry.working = False
        if entry.dirty and not self.away and self._timers.due_s(entry.uid) is None:
            self.wake(entry)

    def _look(self, entry: Entry) -> Plan:
        """Take in what is, say it, and plan."""
        pod = self.pod_of(entry)
        if pod is None:
            return Plan()
        now_s, seen = self._clock.now_s(), self._observer.of(entry.uid)
        self._reporter.note(entry, pod, seen)
        if entry.memory.stop_by_s is None or specs.is_deleted(pod):
            self._decide(entry, pod, now_s)
        wanted = plan(pod, seen, entry.memory, now_s)
        if entry.memory.forgotten:
            wanted = Plan()
            self._finish(entry, pod)
        else:
            self._reporter.report(entry, pod, seen)
        running = {c.name: c.id for c in seen.containers.values() if c.state is State.RUNNING}
        self._probes.sync(entry, pod, running)
        if wanted.wake_s is not None:
            self._timers.set(entry.uid, wanted.wake_s, partial(self.wake, entry))
        return wanted

    def _decide(self, entry: Entry, pod: Json, now_s: float) -> None:
        """Admission, deadline and deletion: what ends a pod, or never lets it begin."""
        memory = entry.memory
        if specs.is_deleted(pod):
            asked = specs.grace_s(pod)
            if entry.grace_asked_s is None or asked < entry.grace_asked_s:
                entry.grace_asked_s = asked
                by_s = now_s + asked
                memory.stop_by_s = by_s if memory.stop_by_s is None else min(by_s, memory.stop_by_s)
            return
        if not memory.admitted and memory.ended is None:
            refused = refusal(pod, self._beside(entry), self._room())
            if refused is not None:
                self.endings.refused(pod, refused)
                memory.ended = refused
            memory.admitted = refused is None
            self._reporter.begin(entry)
        seen, beside = self._observer.of(entry.uid), partial(self._beside, entry)
        if memory.admitted and memory.ended is None and resize.decide(pod, memory, seen, beside, self._room):
            self.endings.not_resized(pod, memory)
        if (over := self.endings.over_deadline(pod, memory, now_s)) is not None:
            self.end(entry, over, grace_s=specs.grace_s(pod))

    async def _carry_out(self, entry: Entry, wanted: Plan) -> bool:
        """Do the steps in order; stops run beside. Returns whether there were other steps, after which all is looked at again."""
        pod = self.pod_of(entry)
        steps = [step for step in wanted.steps if not isinstance(step, Stop)]
        for step in wanted.steps:
            if isinstance(step, Stop) and pod is not None:
                self._begin_stop(entry, pod, step)
        try:
            for step in steps:
                if pod is None or entry.hurry.is_set():
                    break
                await self._executor.carry_out(entry, pod, step)
        except Interrupted:
            pass
        if steps:
            entry.dirty = True
        return bool(steps)

    def _begin_stop(self, entry: Entry, pod: Json, step: Stop) -> None:
        before = entry.stops.pop(step.id, None)
        if before is not None:
            before.cancel()
        entry.memory.stopping[step.id] = step.by_s
        assert self._group is not None
        entry.stops[step.id] = self._group.create_task(self._stop(entry, pod, step, first=before is None))

    async def _stop(self, entry: Entry, pod: Json, step: Stop, *, first: bool) -> None:
        try:
            await self._executor.stop(entry, pod, step, first=first)
        except RuntimeAway as error:
            self._lost(error)
        except Exception:
            log.exception("container not stopped", pod=f"{entry.namespace}/{entry.name}", container=step.name)
            self._later(entry, STUCK_S)
        if entry.stops.get(step.id) is asyncio.current_task():
            del entry.stops[step.id]
            entry.memory.stopping.pop(step.id, None)
            self.wake(entry)

    def _later(self, entry: Entry, delay_s: float) -> None:
        self._timers.set(entry.uid, self._clock.now_s() + delay_s, partial(self.wake, entry))

    def _finish(self, entry: Entry, pod: Json) -> None:
        """Nothing of the pod is left here: tell the cloud, or forget a pod that has no object."""
        if entry.last is None:
            self._reporter.report(entry, pod, self._observer.of(entry.uid))
            if not entry.told:
                self._writer.gone(entry.uid, entry.namespace, entry.name)
            entry.told = True
        else:
            self._writer.drop(entry.uid, entry.namespace, entry.name)
            self.entries.pop(entry.uid, None)
        entry.done = entry.last is not None
        self._timers.cancel(entry.uid)
        self._probes.forget(entry)
        self.events.forget(entry.uid)
        self._observer.forget(entry.uid)

    def _is_over(self, entry: Entry, pod: Json) -> bool:
        over = entry.memory.ended is not None or entry.memory.forgotten
        return over or is_finished(pod, self._observer.of(entry.uid), entry.memory)

    def _waits(self, entry: Entry) -> bool:
        memory = entry.memory
        return memory.trouble is not None or any(h.trouble is not None for h in memory.containers.values())

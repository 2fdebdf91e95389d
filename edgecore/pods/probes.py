"""Startup, liveness and readiness probes: one timer each, results into the pod's memory (POD-9).

A probe never runs twice at once, and one that hangs costs only its own time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from edgecore.pods import specs
from edgecore.pods.checks import Checks, Found
from edgecore.pods.entry import Entry
from edgecore.pods.events import PodEvents
from edgecore.pods.runtime import RuntimeAway
from edgecore.pods.seen import Held, Kill
from edgecore.pods.specs import Json
from edgecore.pods.timers import Timers
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.metrics import Counter, Metrics

STARTUP, LIVENESS, READINESS = "startup", "liveness", "readiness"
KINDS = (STARTUP, LIVENESS, READINESS)
LATE_S = 0.25  # a runtime that answers ends a command within a tenth of this
LATE_AT_MOST = 3  # on a machine that is always slow a command that hangs still counts


def failures(metrics: Metrics) -> Counter:
    return metrics.counter("skerry_edge_probe_failures_total", "Probes that failed, by kind.", ["kind"])


@dataclass(slots=True)
class _Probe:
    """One probe of one container that runs; ``streak`` counts equal results, positive for good ones."""

    entry: Entry
    container: str
    kind: str
    container_id: str
    streak: int = 0
    late: int = 0  # timeouts in a row that came late
    running: bool = False


class Probes:
    """``sync`` after each look at a pod; ``pod_of`` and ``changed`` are the controller's."""

    def __init__(
        self,
        checks: Checks,
        timers: Timers,
        events: PodEvents,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        target: Callable[[Json], str],
    ) -> None:
        self._checks, self._timers, self._events = checks, timers, events
        self._clock, self._rng = clock, rng
        self._target = target
        self.pod_of: Callable[[Entry], Json | None] = lambda _: None
        self.changed: Callable[[Entry], object] = lambda _: None
        self._probes: dict[tuple[str, str, str], _Probe] = {}
        self._group: asyncio.TaskGroup | None = None
        self._failures = failures(metrics)

    async def run(self) -> None:
        """Carry probes out until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    def sync(self, entry: Entry, pod: Json, running: dict[str, str]) -> None:
        """Begin the probes of containers that run (name -> id), end those of others."""
        wanted = {}
        for _, container in specs.every_container(pod):
            held = entry.memory.containers.get(container["name"])
            container_id = running.get(container["name"])
            if held is None or container_id is None or held.container_id != container_id:
                continue
            for kind in KINDS:
                due = (kind == STARTUP) != held.started  # the others begin when the startup probe has passed
                stopping = kind != READINESS and (container_id in entry.memory.stopping or held.kill is not None)
                if container.get(f"{kind}Probe") and due and not stopping:
                    wanted[entry.uid, container["name"], kind] = container_id
        for key in [k for k, p in self._probes.items() if k[0] == entry.uid and wanted.get(k) != p.container_id]:
            del self._probes[key]
            self._timers.cancel(key)
        for key, container_id in wanted.items():
            if key not in self._probes:
                self._begin(entry, pod, key, container_id)

    def forget(self, entry: Entry) -> None:
        """The pod is gone."""
        for key in [k for k in self._probes if k[0] == entry.uid]:
            del self._probes[key]
            self._timers.cancel(key)

    def _begin(self, entry: Entry, pod: Json, key: tuple[str, str, str], container_id: str) -> None:
        _, name, kind = key
        probe = self._probes[key] = _Probe(entry, name, kind, container_id)
        found = specs.find(pod, name)
        spec = (found[1] if found is not None else {}).get(f"{kind}Probe") or {}
        held = entry.memory.held(name)
        since_start_s = self._clock.now_s() - held.started_at_s
        first_s = max(0.0, float(spec.get("initialDelaySeconds") or 0) - since_start_s)
        if since_start_s > 5.0:  # adopted: spread out what would all be due at once
            first_s += self._rng.random() * period_s(spec)
        self._timers.set(key, self._clock.now_s() + first_s, lambda: self._fire(key, probe))

    def _fire(self, key: tuple[str, str, str], probe: _Probe) -> None:
        if self._probes.get(key) is probe and self._group is not None and not probe.running:
            probe.running = True
            self._group.create_task(self._once(key, probe))

    async def _once(self, key: tuple[str, str, str], probe: _Probe) -> None:
        pod = self.pod_of(probe.entry)
        found = specs.find(pod, probe.container) if pod is not None else None
        if pod is None or found is None:
            return
        spec = found[1][f"{probe.kind}Probe"]
        began_s, timeout_s = self._clock.now_s(), float(spec.get("timeoutSeconds") or 1)
        try:
            said = await self._checks.run(found[1], spec, probe.container_id, self._target(pod), timeout_s)
            result = self._believed(probe, said, self._clock.now_s() - began_s - timeout_s)
        except RuntimeAway:
            result = None  # nothing is known of the container: neither good nor bad
        finally:
            probe.running = False
        if self._probes.get(key) is not probe:
            return
        if result is not None:
            self._take(probe, pod, spec, result)
        if self._probes.get(key) is probe:
            self._timers.set(key, began_s + period_s(spec), lambda: self._fire(key, probe))

    def _believed(self, probe: _Probe, result: Found, late_s: float) -> Found | None:
        """A timeout that comes late says that the runtime stood still, not the container."""
        probe.late = probe.late + 1 if result.timed_out and late_s > LATE_S else 0
        return None if 0 < probe.late <= LATE_AT_MOST else result

    def _take(self, probe: _Probe, pod: Json, spec: Json, result: Found) -> None:
        probe.streak = max(1, probe.streak + 1) if result.ok else min(-1, probe.streak - 1)
        held = probe.entry.memory.held(probe.container)
        if not result.ok:
            self._failures.inc(probe.kind)
            text = f"{probe.kind.capitalize()} probe failed: {result.message}"
            self._events.say(pod, "Warning", "Unhealthy", text, container=probe.container)
        if result.ok and probe.streak >= int(spec.get("successThreshold") or 1):
            self._passed(probe, held)
        elif not result.ok and -probe.streak >= int(spec.get("failureThreshold") or 3):
            self._failed(probe, pod, spec, held)

    def _passed(self, probe: _Probe, held: Held) -> None:
        before = (held.started, held.ready)
        if probe.kind == STARTUP:
            held.started = True
        elif probe.kind == READINESS:
            held.ready = True
        if (held.started, held.ready) != before:
            self.changed(probe.entry)

    def _failed(self, probe: _Probe, pod: Json, spec: Json, held: Held) -> None:
        if probe.kind == READINESS:
            if held.ready:
                held.ready = False
                self.changed(probe.entry)
            return
        grace = spec.get("terminationGracePeriodSeconds")
        then = ", will be restarted" if specs.restart_policy(pod) != "Never" else ""
        held.kill = Kill(
            probe.container_id,
            f"Container {probe.container} failed {probe.kind} probe{then}",
            restart=specs.restart_policy(pod) != "Never",
            grace_s=None if grace is None else float(grace),
        )
        self.changed(probe.entry)


def period_s(spec: Json) -> float:
    return max(1.0, float(spec.get("periodSeconds") or 10))

"""Between what is seen and what is said: remembers ends and restarts, recalls what an earlier process knew, writes statuses."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from edgecore.pods import marks, specs
from edgecore.pods.entry import Entry
from edgecore.pods.events import PodEvents
from edgecore.pods.phases import FAILED, SUCCEEDED, pod_status
from edgecore.pods.plan import restarts
from edgecore.pods.runtime import Container, State
from edgecore.pods.seen import Ended, Seen
from edgecore.pods.specs import Json
from edgecore.pods.statuses import Looked
from edgecore.pods.writer import Writer
from kubeapi.durations import parse_time
from proto.kit.clock import Clock, rfc3339

MAX_MESSAGE_BYTES = 4096
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048
NS = 1e9


class Reporter:
    """``host_ips`` and ``runtime`` (its name, "" until it is known) may change while we run."""

    def __init__(self, writer: Writer, events: PodEvents, clock: Clock, boot: str) -> None:
        self._writer, self._events, self._clock, self._boot = writer, events, clock, boot
        self.host_ips: Callable[[], tuple[str, ...]] = tuple
        self.runtime = ""

    def recall(self, entry: Entry, pod: Json) -> None:
        """Take up a pod that an earlier process worked on: admitted pods stay admitted, ended ones stay ended."""
        status, memory = pod.get("status") or {}, entry.memory
        if status.get("phase") in {SUCCEEDED, FAILED}:
            memory.ended = Ended(status.get("reason", ""), status.get("message", ""))
        if not status.get("startTime"):
            return
        memory.start_time = status["startTime"]
        for one in statuses_in(status):
            memory.held(one["name"]).promised = one.get("resources") if one.get("containerID") else None
        memory.admitted = any(one.get("containerID") for one in statuses_in(status))
        memory.active_since_s = self._clock.now_s() - self._ran_s(entry.uid, memory.start_time)

    def _ran_s(self, uid: str, start_time: str) -> float:
        """How long ago the pod began. Over a boot only the wall clock can tell; one that went back takes nothing away."""
        record, now_s = self._writer.records.get(uid), self._clock.now_s()
        known_s = record.elapsed(self._boot, now_s) if record is not None else 0.0
        if record is not None and record.boot == self._boot:
            return known_s
        began = parse_time(start_time)
        return known_s if began is None else max(known_s, (self._clock.wall() - began).total_seconds())

    def begin(self, entry: Entry) -> None:
        """The pod's time on this node begins."""
        if not entry.memory.start_time:
            entry.memory.start_time = rfc3339(self._clock.wall())
            entry.memory.active_since_s = self._clock.now_s()

    def note(self, entry: Entry, pod: Json, seen: Seen) -> None:
        """Remember what the runtime shows now: ends with their messages, and containers that are new to this process."""
        status = self._writer.status(entry.uid, entry.namespace, entry.name)
        for _, container in specs.every_container(pod):
            name = container["name"]
            now = seen.newest(name)
            held = entry.memory.held(name)
            if now is None:
                self._lost(entry, name, status)
            elif now.state is State.EXITED:
                self._ended(entry, pod, container, now)
            elif now.state is State.RUNNING and held.container_id != now.id:
                self._adopt(entry, container, now, status)
        for ended in seen.containers.values():
            if ended.state is State.EXITED and ended.id not in entry.memory.messages:
                entry.memory.messages[ended.id] = termination_message(ended)

    def report(self, entry: Entry, pod: Json, seen: Seen) -> None:
        """Write the pod's status if it is another one now."""
        if entry.last is not None or not entry.memory.start_time:
            return
        if seen.containers and not self.runtime:
            return  # their ids carry its name: who learns the name wakes the pods
        now_s = self._clock.now_s()
        before = self._writer.status(entry.uid, entry.namespace, entry.name)
        now = rfc3339(self._clock.wall())
        look = Looked(pod, seen, entry.memory, before, self.runtime, now_s, now)
        since_s = entry.memory.active_since_s
        elapsed_s = 0.0 if since_s is None else now_s - since_s
        status = pod_status(look, self.host_ips())
        if status["phase"] in {SUCCEEDED, FAILED} and entry.memory.ended is None:
            entry.memory.ended = Ended("", "")  # for ever, whatever becomes of its containers
        self._writer.put(entry.uid, entry.namespace, entry.name, status, elapsed_s)

    def _ended(self, entry: Entry, pod: Json, container: Json, ended: Container) -> None:
        held = entry.memory.held(container["name"])
        if held.backoff.ended_id == ended.id:
            return
        ran_s = (ended.finished_at_ns - ended.started_at_ns) / NS
        if held.container_id == ended.id:  # ours to measure: no step of the wall clock counts
            ran_s = self._clock.now_s() - held.started_at_s
        held.backoff.ended(ended.id, ran_s, self._clock.now_s())
        if ended.reason == "OOMKilled":
            text = f"Container {ended.name} was killed: it used more memory than its limit"
            self._events.say(pod, "Warning", "OOMKilling", text, container=ended.name)
        going_on = entry.memory.stop_by_s is None and entry.memory.ended is None
        if going_on and held.backoff.next_at_s > self._clock.now_s() and restarts(pod, container, ended, held):
            namespace, name = specs.name_of(pod)
            what = f"{ended.name} in pod {name}_{namespace}({entry.uid})"
            self._events.say(
                pod, "Warning", "BackOff", f"Back-off restarting failed container {what}", container=ended.name
            )

    def _adopt(self, entry: Entry, container: Json, now: Container, status: Json) -> None:
        """A container that an earlier process started: what was said of it holds until a probe says otherwise (POD-1)."""
        said: Json = next((s for s in statuses_in(status) if s.get("containerID", "").endswith(f"//{now.id}")), {})
        entry.memory.held(container["name"]).about(
            now.id,
            started=bool(said.get("started")) or not container.get("startupProbe"),
            ready=bool(said.get("ready")) or not container.get("readinessProbe"),
            now_s=self._clock.now_s(),
            given=said.get("resources"),
        )

    def _lost(self, entry: Entry, name: str, status: Json) -> None:
        """The runtime knows nothing of a container that the status tells of: the next one is a restart."""
        for one in statuses_in(status):
            if one.get("name") == name and one.get("containerID"):
                entry.memory.held(name).least_attempt = int(one.get("restartCount") or 0) + 1


def statuses_in(status: Json) -> Iterator[Json]:
    """Every container status of a pod's status."""
    for part in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        yield from status.get(part) or []


def termination_message(ended: Container) -> str:
    """What the container left to say, or the end of its log where its policy wants that; bounded."""
    path = ended.annotations.get(marks.TERMINATION_LOG, "")
    text = ""
    if path:
        with suppress(OSError), Path(path).open("rb") as file:
            text = file.read(MAX_MESSAGE_BYTES).decode(errors="replace")
    policy = ended.annotations.get(marks.TERMINATION_POLICY)
    if not text and policy == "FallbackToLogsOnError" and ended.exit_code != 0 and ended.log_path:
        text = _log_tail(Path(ended.log_path))
    return text


def _log_tail(path: Path) -> str:
    """The last lines of a CRI log, without its time, stream and tag."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4 * FALLBACK_BYTES))
            lines = file.read(4 * FALLBACK_BYTES).decode(errors="replace").splitlines()[-FALLBACK_LINES:]
    except OSError:
        return ""
    words = [line.split(" ", 3) for line in lines]
    return "\n".join(word[3] for word in words if len(word) == 4)[-FALLBACK_BYTES:]

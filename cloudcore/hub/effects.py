"""Messages whose work is in the API: events, registrations, pods that ended. They were committed before they were
acknowledged; here they are carried out in order, at least once, in a way that makes a repetition harmless."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from cloudcore.history import History
from cloudcore.hub.scope import Scope
from cloudcore.kube.client import MERGE_PATCH, KubeClient
from cloudcore.kube.errors import Conflict, Forbidden, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DEVICE, EVENT, NODE, POD
from proto.kit import canonical
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock, rfc3339
from proto.kit.errors import MalformedMessage, Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow

COMPONENT = "skerry"
MAX_TEXT = 1024
MAX_STEM = 200  # characters of an event's name that say what it is about
MAX_OWN = 256  # events of the cloud's own that wait for the API server
MAX_COUNT = 1 << 30
MAX_WITHHELD = 2_000  # messages that wait for a right: what one query can leave out; more are given up and said
FAIR = 64  # messages of one node in one look at the database: after that the others have their turn
MAX_STUCK = 32  # nodes whose messages fail: with more it is the API server that fails, not what they ask for
log = Logger("effects")
Carry = Callable[[str, MessageRow, dict[str, Any]], Awaitable[None]]  # (node, message, its body)


class Effects:
    """Carries out committed messages; ``wake`` when there are new ones. ``kinds`` says who carries out which.

    What raises Retryable is done again before anything after it of the same node, and holds up no other; what raises Terminal
    is counted and given up. Of the kinds in ``patient``, what we lack the right for stays in the database and is tried now
    and then: rights come back.
    """

    def __init__(
        self,
        history: History,
        client: KubeClient,
        scope: Scope,
        kinds: Mapping[str, Carry],
        *,
        patient: frozenset[str] = frozenset(),
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> None:
        self._history, self._client, self._scope = history, client, scope
        self._kinds: dict[str, Carry] = {"event": self._raise, **kinds}
        self._clock = clock
        self._backoff = Backoff(base_s=0.2, cap_s=30.0, rng=rng)
        self._signal = asyncio.Event()
        self._signal.set()  # what an earlier process left
        self._own: dict[str, dict[str, Any]] = {}
        self._patient = patient
        self._withheld: dict[
            int, bool
        ] = {}  # row -> whether it rests now; in memory only: a restart tries each at once
        self._rest = asyncio.Event()
        self._stuck: set[str] = set()  # nodes whose oldest message is to be tried again
        self._later: set[str] = set()  # nodes that have just had more than their turn
        self._held = asyncio.Event()
        self._again = Backoff(base_s=0.2, cap_s=30.0, rng=rng)
        self._pauses = Backoff(base_s=0.5, cap_s=60.0, rng=rng)
        self._dropped = metrics.counter(
            "skerry_cloud_effects_dropped_total", "Events and registrations that could not be carried out", ("kind",)
        )

    def wake(self) -> None:
        self._signal.set()

    async def run(self) -> None:
        while True:
            await self._signal.wait()
            self._signal.clear()
            try:
                while await self._some():
                    pass
                self._backoff.reset()
                if not self._stuck:
                    self._again.reset()
            except Retryable as error:
                log.debug("effects wait", reason=error)
                self._stuck.clear()
                self._signal.set()
                await self._clock.sleep(self._backoff.next_s())

    async def run_stuck(self) -> None:
        """Let what failed be tried again, for ever."""
        while True:
            await self._held.wait()
            self._held.clear()
            await self._clock.sleep(self._again.next_s())
            self._stuck.clear()
            self.wake()

    async def run_withheld(self) -> None:
        """Let what waits for a right be tried again, for ever."""
        while True:
            await self._rest.wait()
            self._rest.clear()
            await self._clock.sleep(self._pauses.next_s())
            self._withheld = dict.fromkeys(self._withheld, False)
            self.wake()

    def tell(self, kind: str, involved: Mapping[str, str], reason: str, message: str, *, name: str) -> None:
        """Raise an event of the cloud's own as soon as the API server answers; ``name`` makes a repetition harmless.

        It is kept in memory only: what it tells of happens again after a restart.
        """
        if name not in self._own and len(self._own) >= MAX_OWN:
            self._own.pop(next(iter(self._own)))
            self._dropped.inc("event")
        at = rfc3339(self._clock.wall())
        self._own[name] = make_event(involved, kind, reason, message, name=name, at=at, host="cloudcore")
        self.wake()

    async def _raise_own(self) -> None:
        """Create the events of the cloud's own. Raises Retryable."""
        for name, event in list(self._own.items()):
            try:
                await self._create(event)
            except Terminal as error:
                self._dropped.inc("event")
                log.warning("event not raised", event=name, reason=error)
            self._own.pop(name, None)

    async def _some(self) -> bool:
        await self._raise_own()
        resting = [number for number, rests in self._withheld.items() if rests]
        rows = await self._history.effects(without=resting, nodes=sorted(self._stuck | self._later))
        more = bool(rows or self._later)
        self._later = {node for node, found in Counter(node for _, node, _ in rows).items() if found > FAIR}
        for number, node, row in rows:
            if node not in self._stuck:
                await self._carry(number, node, row)
        return more

    async def _carry(self, number: int, node: str, row: MessageRow) -> None:
        """Carry out one message, or note why not. Raises Retryable when too many nodes fail, SqlUnavailable."""
        try:
            await self._one(node, row)
        except Terminal as error:
            if isinstance(error, Forbidden) and self._withhold(number, node, row, error):
                return
            self._refuse(node, row, str(error))
        except Retryable as error:
            self._stuck.add(node)
            if len(self._stuck) > MAX_STUCK:
                raise
            log.debug("a message waits", node=node, kind=row.kind, reason=error)
            self._held.set()
            return
        except Exception:  # one strange message must not end the cloud
            self._dropped.inc(row.kind)
            log.exception("message dropped", node=node, kind=row.kind)
        await self._history.effects_done([number])
        if self._withheld.pop(number, None) is not None:
            self._pauses.reset()

    def _withhold(self, number: int, node: str, row: MessageRow, error: Forbidden) -> bool:
        """Whether a message that we lack the right for is kept for later."""
        if row.kind not in self._patient:
            return False
        if number not in self._withheld:
            if len(self._withheld) >= MAX_WITHHELD:
                return False
            log.warning(
                "the API server forbids what a node asks for; tried again later", node=node, kind=row.kind, reason=error
            )
        self._withheld[number] = True
        self._rest.set()
        return True

    def _refuse(self, node: str, row: MessageRow, reason: str) -> None:
        """Give a message up; people hear of it at the Node, unless it was only an event itself."""
        self._dropped.inc(row.kind)
        log.warning("message dropped", node=node, kind=row.kind, reason=reason)
        if row.kind != "event":
            involved = {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": node, "uid": node}
            text = f"{row.kind} was not carried out: {reason}"[:MAX_TEXT]
            self.tell("Warning", involved, "MessageRefused", text, name=f"{node}.refused-{row.seq:x}")

    async def _one(self, node: str, row: MessageRow) -> None:
        try:
            body = msgspec.json.decode(row.body)
        except canonical.UNREADABLE as error:
            raise MalformedMessage(f"{row.kind} is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise MalformedMessage(f"{row.kind} is no object")
        carry = self._kinds.get(row.kind)
        if carry is None:
            raise MalformedMessage(f"nobody carries out {row.kind}")
        await carry(node, row, body)

    async def _raise(self, node: str, row: MessageRow, body: dict[str, Any]) -> None:
        await self._tell_again(self._event(node, row.seq, body))

    def _event(self, node: str, seq: int, body: dict[str, Any]) -> dict[str, Any]:
        """Return the edge's event as we let it be: about itself, its devices or its pods, under a name of ours."""
        involved = body.get("involvedObject")
        if not isinstance(involved, dict):
            raise MalformedMessage("an event names no involvedObject")
        kind, name, namespace = (str(involved.get(k) or "") for k in ("kind", "name", "namespace"))
        own = kind == NODE.kind and name == node
        owns = {DEVICE.kind: self._scope.owns_device, POD.kind: self._scope.owns_pod}.get(kind)
        if not own and not (owns is not None and owns(node, Name(namespace, name))):
            raise MalformedMessage(f"an event about {kind} {namespace}/{name}, which is not this node's")
        at = str(body.get("lastTimestamp") or body.get("eventTime") or rfc3339(self._clock.wall()))
        event = make_event(
            {k: str(v) for k, v in involved.items()},
            str(body.get("type") or "Normal"),
            str(body.get("reason") or "Edge")[:128],
            str(body.get("message") or "")[:MAX_TEXT],
            name=_name(node, name, body) or f"{name}.{node}-{seq:x}",
            at=at,
            host=node,
        )
        count = body.get("count")
        if isinstance(count, int) and 1 < count < MAX_COUNT:  # the edge has coalesced
            event |= {"count": count, "firstTimestamp": str(body.get("firstTimestamp") or at)}
        return event

    async def _tell_again(self, event: dict[str, Any]) -> None:
        """Create the event, or let the one of this name say how often and when last; what comes late changes nothing."""
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        if await self._create(event):
            return
        try:
            found = await self._client.get(EVENT, namespace, name)
        except NotFound:  # it has just expired: what is said next makes it again
            return
        if (found.get("count") or 1) < event["count"]:
            patch = {"count": event["count"], "lastTimestamp": event["lastTimestamp"]}
            await self._client.patch(EVENT, namespace, name, patch, content_type=MERGE_PATCH)

    async def _create(self, event: dict[str, Any]) -> bool:
        """Return whether there was none of this name."""
        try:
            await self._client.create(EVENT, event["metadata"]["namespace"], event)
        except Conflict:
            return False
        return True


def _name(node: str, about: str, body: Mapping[str, Any]) -> str:
    """Return the name that all repetitions of the edge's event share, "" when it names none.

    An edge that was restarted counts from one again: that is another event, by its first time.
    """
    if not isinstance(body.get("name"), str):
        return ""
    series = "\0".join((node, body["name"], str(body.get("firstTimestamp") or "")))
    return f"{about[:MAX_STEM].rstrip('.-')}.{hashlib.sha256(series.encode()).hexdigest()[:16]}"


def make_event(
    involved: Mapping[str, str], kind: str, reason: str, message: str, *, name: str, at: str, host: str
) -> dict[str, Any]:
    """Return a Kubernetes Event."""
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name[:253].lower(), "namespace": involved.get("namespace") or "default"},
        "involvedObject": dict(involved),
        "type": kind if kind in {"Normal", "Warning"} else "Normal",
        "reason": reason,
        "message": message,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT, "host": host},
        "reportingComponent": COMPONENT,
        "reportingInstance": host,
    }

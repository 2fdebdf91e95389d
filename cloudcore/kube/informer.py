"""A list-watch that always resumes: after a clean close, a dropped or half-open connection, and a 410 of either form."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import ApiUnavailable, Forbidden, Gone, NotFound, from_status
from cloudcore.kube.resources import Kind
from proto.kit import canonical
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import SkerryError
from proto.kit.httpclient import Stream
from proto.kit.log import Logger
from proto.kit.metrics import Metrics

PAGE_OBJECTS = 500
BULKY_PAGE_OBJECTS = 100  # of those whose content is let go again: a page is in memory twice
LEFT_OUT_PAUSE_S = 60.0  # rights and definitions come by a person's hand
MAX_LINE_BYTES = 8 << 20  # one watch event; Kubernetes objects are at most 3 MiB
log = Logger("informer")
_decoder = msgspec.json.Decoder()


class Name(NamedTuple):
    """Which object of the informer's kind; ``namespace`` is "" at cluster scope."""

    namespace: str
    name: str


Listener = Callable[[Name, dict[str, Any] | None, dict[str, Any] | None], None]


@dataclass(frozen=True, slots=True)
class InformerSettings:
    """Timing of every informer of the process."""

    idle_timeout_s: float = 90.0  # longer than the minute between a server's bookmarks
    watch_timeout_s: int = 290  # the server ends the watch cleanly after this
    backoff_cap_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind, and whether we can do without them."""

    field_selector: str = ""
    optional: bool = False
    keep: Callable[[dict[str, Any]], bool] | None = None  # None: every object


EVERYTHING = Selection()
CONTENT = frozenset({"data", "binaryData", "stringData"})


@dataclass(frozen=True, slots=True)
class Hollowing:
    """Objects that are not kept ``whole`` are kept without their content, beside a ``mark`` of the whole object."""

    whole: Callable[[Name], bool]
    mark: Callable[[dict[str, Any]], bytes]


class Informer:
    """What the API server holds of one kind, kept current. ``objects`` must not be mutated.

    Listeners run on the loop for each change as ``(name, old, new)``; None means absent. ``synced`` is set by the first
    complete list and stays: afterwards ``objects`` is at worst old, never partial. An optional kind that is forbidden or
    absent is *left out*: said once, asked for again each minute, and nobody waits for it. What the selection does not keep is as if
    it did not exist; when that changes, ``list_again`` and run anew.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        settings: InformerSettings | None = None,
        selection: Selection = EVERYTHING,
    ) -> None:
        self.kind = kind
        self.objects: dict[Name, dict[str, Any]] = {}
        self.hollowing: Hollowing | None = None  # set before ``run``
        self.hollow: dict[Name, bytes] = {}  # those in ``objects`` that are kept without content -> mark
        self.synced = asyncio.Event()
        self.settled = asyncio.Event()  # synced, or left out
        self.left_out = False
        self.connected = False
        self.last_error = ""
        self._optional, self._keep = selection.optional, selection.keep
        self._client = client
        self._clock = clock
        self._settings = settings or InformerSettings()
        self._backoff = Backoff(base_s=0.1, cap_s=self._settings.backoff_cap_s, rng=rng)
        self._listeners: list[Listener] = []
        self._selector = {"fieldSelector": selection.field_selector} if selection.field_selector else {}
        self._revision = ""
        self._events = metrics.counter("skerry_cloud_informer_events_total", "Watch events received", ("resource",))
        self._restarts = metrics.counter(
            "skerry_cloud_informer_restarts_total", "Watches opened again, by reason", ("resource", "reason")
        )

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for every later change; what is already here is told at once."""
        self._listeners.append(listener)
        for name, found in list(self.objects.items()):
            listener(name, None, found)

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get(Name(namespace, name))

    def clear(self) -> None:
        """Tell of every object as gone: nobody will read this kind any more."""
        for name in list(self.objects):
            self._set(name, None)

    def shrink(self, name: Name) -> None:
        """Keep the object without its content from now on."""
        item = self.objects.get(name)
        if item is not None and self.hollowing is not None and name not in self.hollow:
            self.hollow[name] = self.hollowing.mark(item)
            self.objects[name] = _emptied(item)

    def fill(self, name: Name, item: dict[str, Any]) -> bool:
        """Keep ``item``, just read, in the place of what has no content; False: there is no such object any more."""
        held = self.objects.get(name)
        if held is None or held["metadata"].get("uid") != item["metadata"].get("uid"):
            return False
        self.hollow.pop(name, None)
        self.objects[name] = _slim(item)
        return True

    def list_again(self) -> None:
        """Let the next ``run`` begin with a list."""
        self._revision = ""

    async def run(self) -> None:
        """List, then watch, for ever."""
        while True:
            try:
                if not self._revision:
                    await self._list()
                await self._watch()
                self._lost("closed", "")
            except Gone as error:
                self._revision = ""
                self._lost("gone", str(error))
            except (Forbidden, NotFound) as error:
                if self._optional:
                    self._leave_out(error)
                    await self._clock.sleep(LEFT_OUT_PAUSE_S)
                    continue
                self._lost("error", str(error))
            except SkerryError as error:
                self._lost("error", str(error))
            except (KeyError, TypeError, AttributeError) as error:
                self._lost("malformed", f"an answer that is no Kubernetes object ({error!r})")
            if self._backoff.attempts or not self._revision:
                await self._clock.sleep(self._backoff.next_s())
            else:
                self._backoff.attempts = 1  # the next one in a row waits; an event resets

    def _lost(self, reason: str, text: str) -> None:
        self._restarts.inc(self.kind.plural, reason)
        if self._optional:
            log.debug("watch ended", resource=self.kind.plural, reason=text)  # the kinds that matter most say it aloud
        elif self.connected and text:
            log.info("watch ended, resuming", resource=self.kind.plural, reason=text)
        elif text and text != self.last_error:
            log.warning("cannot read from the API server", resource=self.kind.plural, reason=text)
        self.connected = False
        self.last_error = text

    def _leave_out(self, error: Forbidden | NotFound) -> None:
        if isinstance(error, NotFound):  # nothing of it can exist
            self.clear()
            self.synced.set()
        if not self.left_out:
            say = log.warning if isinstance(error, Forbidden) else log.debug
            say("left out", resource=self.kind.plural, reason=error)
        self.left_out, self.connected, self.last_error = True, False, str(error)
        self._revision = ""  # what may be listed and not watched is listed each time
        self.settled.set()

    async def _list(self) -> None:
        found: dict[Name, dict[str, Any]] = {}
        limit = PAGE_OBJECTS if self.hollowing is None else BULKY_PAGE_OBJECTS
        query = {"limit": str(limit), **self._selector}
        while True:
            page = await self._client.list(self.kind, query)
            metadata = page.get("metadata") or {}
            for item in page.get("items") or []:
                if self._keep is None or self._keep(item):
                    found[_name(item)] = self._shaped(item)
            more = metadata.get("continue")
            if not more:
                break
            query["continue"] = str(more)
        for name in [name for name in self.objects if name not in found]:
            self._set(name, None)
        for name, item in found.items():
            self._set(name, item)
        self._revision = str(metadata.get("resourceVersion") or "0")
        self.synced.set()
        self.settled.set()

    async def _watch(self) -> None:
        query = {
            "resourceVersion": self._revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._settings.watch_timeout_s),
            **self._selector,
        }
        async with self._client.watch(self.kind, query, idle_timeout_s=self._settings.idle_timeout_s) as stream:
            if not self.connected:
                log.debug("watching", resource=self.kind.plural, revision=self._revision)
            self.connected = True
            self.left_out = False
            async for line in _lines(stream):
                self._event(line)
                self._backoff.reset()

    def _event(self, line: bytes) -> None:
        try:
            event = _decoder.decode(line)
            kind, item = event["type"], event["object"]
        except (*canonical.UNREADABLE, KeyError, TypeError) as error:
            raise ApiUnavailable(f"watch {self.kind.plural}: an event that is no JSON") from error
        if kind == "ERROR":
            raise from_status(int(item.get("code") or 500), item, f"watch {self.kind.plural}")
        self._revision = str(item["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            return
        self._events.inc(self.kind.plural)
        gone = kind == "DELETED" or (self._keep is not None and not self._keep(item))
        self._set(_name(item), None if gone else self._shaped(item))

    def _shaped(self, item: dict[str, Any]) -> dict[str, Any]:
        name, item = _name(item), _slim(item)
        if self.hollowing is None or self.hollowing.whole(name):
            self.hollow.pop(name, None)
            return item
        self.hollow[name] = self.hollowing.mark(item)
        return _emptied(item)

    def _set(self, name: Name, new: dict[str, Any] | None) -> None:
        old = self.objects.pop(name, None) if new is None else self.objects.get(name)
        if new is not None:
            self.objects[name] = new
            if old is not None and old["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]:
                return
        elif old is None:
            return
        if new is None:
            self.hollow.pop(name, None)
        for listener in self._listeners:
            try:
                listener(name, old, new)
            except Exception:  # one odd object must not blind us to the others
                log.exception("listener failed", resource=self.kind.plural, namespace=name.namespace, name=name.name)


def _name(item: dict[str, Any]) -> Name:
    metadata = item["metadata"]
    return Name(metadata.get("namespace") or "", metadata["name"])


def _slim(item: dict[str, Any]) -> dict[str, Any]:
    """Drop what nobody here reads and what would double the memory."""
    item["metadata"].pop("managedFields", None)
    return item


def _emptied(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in CONTENT}


async def _lines(stream: Stream) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in stream.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ApiUnavailable(f"a watch event is larger than {MAX_LINE_BYTES} bytes")
        for line in lines:
            if line:
                yield line

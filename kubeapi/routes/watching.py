"""watch: changes as lines of JSON, for as long as the client listens.

The response's head goes out at once. A quiet watch gets bookmarks; one that cannot go on gets an ERROR event. A client
that does not read is cut by the HTTP server's write limit, and by the store when it falls too far behind; both count.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from kubeapi import tables
from kubeapi.errors import ApiError, bad_request
from kubeapi.http import StreamResponse
from kubeapi.listing import parse_revision
from kubeapi.objects import Objects
from kubeapi.resources import Resource
from kubeapi.routes.negotiation import JSON, Wanted
from kubeapi.routes.reads import included
from kubeapi.routes.target import Query, Target
from kubeapi.selectors import Match, select_events, selector
from kubeapi.stored import BOOKMARK, Event, encode
from kubeapi.watch import Watcher
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.metrics import Counter

BOOKMARK_EVERY_S = 60.0
MIN_WATCH_S = 1800.0  # without timeoutSeconds: this to twice this, so that clients do not all come back at once
MAX_WATCH_S = 86400.0

Frame = Callable[[Event], bytes]


@dataclass(slots=True)
class WatchTimes:
    """When a watch ends and how often a quiet one is told the revision."""

    bookmark_every_s: float = BOOKMARK_EVERY_S
    min_watch_s: float = MIN_WATCH_S


class Watches:
    """Opens watches; knows how many are open."""

    def __init__(self, objects: Objects, times: WatchTimes, *, clock: Clock, rng: Rng, ended: Counter) -> None:
        self.open = 0
        self._objects, self._times, self._clock, self._rng = objects, times, clock, rng
        self._ended = ended

    def start(self, target: Target, asked: Wanted) -> StreamResponse:
        """Return the stream of ``target``. Raises 400, 406, 410."""
        if asked.format != JSON:
            raise ApiError(406, "NotAcceptable", "a watch is served as application/json")
        query, res = target.query, target.res
        fields = query.text("fieldSelector")
        if target.name:
            fields = f"metadata.name={target.name}" + (f",{fields}" if fields else "")
        match = selector(res, query.text("labelSelector"), fields)
        bookmarks = query.flag("allowWatchBookmarks")
        initial = self._initial_events(query, bookmarks=bookmarks)
        since = None if initial else parse_revision(query.text("resourceVersion"))
        if initial is False and not since:
            since = self._objects.store.revision
        frame = _frame(res, asked, query, self._clock)
        lasting_s = self._lasting_s(query)
        watcher = self._objects.store.watch(res, target.namespace, since, bookmarks, initial_end=bool(initial))
        return StreamResponse(200, JSON, chunks=self._lines(watcher, match, frame, lasting_s, bookmarks=bookmarks))

    def _initial_events(self, query: Query, *, bookmarks: bool) -> bool | None:
        if not query.text("sendInitialEvents"):
            if query.text("resourceVersionMatch"):
                raise bad_request("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
            return None
        initial = query.flag("sendInitialEvents")
        if query.text("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        if initial and not bookmarks:
            raise bad_request("sendInitialEvents=true needs allowWatchBookmarks=true: its end is a bookmark")
        return initial

    def _lasting_s(self, query: Query) -> float:
        asked = query.number("timeoutSeconds")
        if asked:
            return min(float(asked), MAX_WATCH_S)
        return self._times.min_watch_s * (1.0 + self._rng.random())

    async def _lines(
        self, watcher: Watcher, match: Match | None, frame: Frame, lasting_s: float, *, bookmarks: bool
    ) -> AsyncIterator[bytes]:
        ends_s = self._clock.now_s() + lasting_s
        reason = "gone"
        self.open += 1
        try:
            async with aclosing(watcher):
                while (left_s := ends_s - self._clock.now_s()) > 0:
                    events = await watcher.batch(min(left_s, self._times.bookmark_every_s))
                    seen = select_events(events, match)
                    if seen:
                        yield b"".join(map(frame, seen))
                    elif bookmarks and not events:
                        yield frame(watcher.bookmark())
                reason = "timeout"
        except ApiError as error:
            reason = "expired"
            yield b'{"type":"ERROR","object":%b}\n' % encode(error.body())
        finally:
            self.open -= 1
            self._ended.inc(reason)


def _frame(res: Resource, asked: Wanted, query: Query, clock: Clock) -> Frame:
    """Return how one event becomes one line."""
    if not asked.transform:
        return lambda event: event.frame
    if asked.transform == "Table":
        include = included(query)

        def as_table(event: Event) -> bytes:
            # A bookmark is a table without rows: it has no cells, only a revision.
            rows = [] if event.type == BOOKMARK else [event.object]
            metadata = {"resourceVersion": str(event.revision)}
            shown = tables.table(res, rows, now=clock.wall(), version=asked.version, include=include, metadata=metadata)
            return _line(event.type, shown)

        return as_table
    return lambda event: _line(event.type, tables.partial(event.object, asked.version))


def _line(kind: str, shown: dict[str, object]) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), encode(shown))

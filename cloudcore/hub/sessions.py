"""Which nodes are connected, by the link's own word."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proto.kit.clock import Clock

Listener = Callable[[str], None]
TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Session:
    """One node's link. ``epoch`` 0: never seen since this process started."""

    epoch: int
    connected: bool
    since_s: float  # of the clock's monotonic time


class Sessions:
    """Told by the link; listeners run on the loop with the node's name at each change.

    A node is *away* once its session has been gone for ``away_after_s``: a reconnect within that is no news. In the first
    ``settle_s`` of the process, a node that has not said hello is neither here nor away.
    """

    def __init__(self, clock: Clock, *, away_after_s: float, settle_s: float) -> None:
        self._clock = clock
        self._away_after_s = away_after_s
        self._settle_s = settle_s
        self._settled = False
        self._all: dict[str, Session] = {}
        self._leaving: set[str] = set()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def get(self, node: str) -> Session | None:
        return self._all.get(node)

    def all(self) -> dict[str, Session]:
        return dict(self._all)

    def is_connected(self, node: str) -> bool:
        found = self._all.get(node)
        return found is not None and found.connected

    def is_known(self, node: str) -> bool:
        """Whether it can be said if the node is here or away."""
        return self._settled or node in self._all

    def is_away(self, node: str) -> bool:
        found = self._all.get(node)
        if found is None:
            return self._settled
        return not found.connected and node not in self._leaving

    def connected(self, node: str, epoch: int) -> None:
        self._leaving.discard(node)
        self._put(node, Session(epoch, connected=True, since_s=self._clock.now_s()))

    def lost(self, node: str, epoch: int) -> None:
        """End the session ``epoch``; an older one's end changes nothing."""
        found = self._all.get(node)
        if found is None or found.epoch <= epoch:
            self._leaving.add(node)
            self._put(node, Session(epoch, connected=False, since_s=self._clock.now_s()))

    async def run(self, known_nodes: Callable[[], Iterable[str]]) -> None:
        """Notice, for ever, who is away by now; ``known_nodes`` should be here or away once all is settled."""
        start_s = self._clock.now_s()
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.now_s()
            for node in [n for n in self._leaving if now_s - self._all[n].since_s >= self._away_after_s]:
                self._leaving.discard(node)
                self._tell(node)
            if not self._settled and now_s - start_s >= self._settle_s:
                self._settled = True
                for node in [n for n in known_nodes() if n not in self._all]:
                    self._tell(node)

    def _put(self, node: str, session: Session) -> None:
        self._all[node] = session
        self._tell(node)

    def _tell(self, node: str) -> None:
        for listener in self._listeners:
            listener(node)

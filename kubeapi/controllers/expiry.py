"""Events grow old: after an hour, or when there are too many, the oldest go. Reads and deletes Event."""

from datetime import datetime, timedelta

from kubeapi.kinds import EVENT
from kubeapi.objects import Objects
from kubeapi.stored import Stored
from proto.kit.clock import rfc3339
from proto.kit.daemon import forever
from proto.kit.database import Tx

KEEP = timedelta(hours=1)  # as a Kubernetes API does by default
MAX_EVENTS = 5_000  # a storm of events must not fill the disk of a small machine
SWEEP_EVERY_S = 60.0


class EventExpiry:
    """Deletes old events; ``expired`` counts them."""

    def __init__(self, objects: Objects) -> None:
        self._store = objects.store
        self._clock = objects.clock
        self.expired = 0

    async def run(self) -> None:
        """Sweep every minute until cancelled."""
        await forever(self.sweep, every_s=SWEEP_EVERY_S, clock=self._clock, name="event expiry")

    async def sweep(self) -> None:
        """Delete what is too old or too much, once."""
        held = sorted(self._store.items(EVENT, None), key=lambda item: item.revision)
        surplus = held[: max(0, len(held) - MAX_EVENTS)]
        old = list(surplus)
        for item in held[len(surplus) :]:
            if not self._is_old(item, self._clock.wall()):
                break  # the others were written later
            old.append(item)
        if old:
            await self._store.db.tx(lambda tx: self._remove(tx, old))
            self.expired += len(old)

    def _is_old(self, item: Stored, now: datetime) -> bool:
        event = item.object
        times = (event.get("lastTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
        return str(max(filter(None, times), default="")) < rfc3339(now - KEEP)

    def _remove(self, tx: Tx, old: list[Stored]) -> None:
        for item in old:
            now = self._store.peek(EVENT, item.namespace, item.name)
            if now is not None and now.revision == item.revision:
                self._store.remove(tx, EVENT, item.namespace, item.name)

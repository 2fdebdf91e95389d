"""Persistent volumes that the API deletes: their directories go, then the cloud is told (VOL-7)."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from edgecore.node import Outbox
from edgecore.pods.facts import NodeFacts
from edgecore.pods.localpath import LocalPaths
from edgecore.pods.timers import either
from kubeapi.kinds import PERSISTENT_VOLUME, POD
from kubeapi.store import Store
from kubeapi.stored import DELETED
from proto.kit import canonical
from proto.kit.clock import Clock
from proto.kit.database import Tx
from proto.kit.log import Logger

log = Logger("pods")
KIND = "volume-gone"  # of the message {name, uid}: the data is deleted, the volume may lose its finalizer


class Transactions(Protocol):
    """What this room needs of the Database."""

    async def tx(self, work: Callable[[Tx], None]) -> Any: ...


class Reclaimer:
    """``run`` takes turns; doing one again changes nothing."""

    def __init__(self, local: LocalPaths, facts: Callable[[], NodeFacts], db: Transactions, outbox: Outbox) -> None:
        self._local, self._facts, self._db, self._outbox = local, facts, db, outbox
        self._told: set[tuple[str, str]] = set()  # name, uid
        self._wake = asyncio.Event()

    async def run(self, store: Store, clock: Clock, every_s: float) -> None:
        """Take turns for ever: when a volume changes, when a pod has left, and every ``every_s``."""
        store.listen(PERSISTENT_VOLUME, lambda _event: self._wake.set())
        store.listen(POD, lambda event: self._wake.set() if event.type == DELETED else None)
        while True:
            self._wake.clear()
            try:
                await self.turn()
            except Exception:  # a disk that refuses now may not refuse later
                log.exception("volumes are not tidied")
            await either(self._wake, clock, every_s)

    async def turn(self) -> None:
        """Delete what the API has given up, and tell the cloud of each volume once. Raises OSError, Retryable."""
        clean: set[tuple[str, str]] = set()
        for name, uid, directory in self._local.doomed(self._facts()):
            await asyncio.to_thread(self._local.delete, directory)
            clean.add((name, uid))
        for name, uid in sorted(clean - self._told):
            log.info("volume deleted", volume=name)
            body = canonical.encode({"name": name, "uid": uid})
            await self._db.tx(lambda tx, body=body: self._outbox.put_message(tx, KIND, body))  # type: ignore[misc]
        self._told = clean

"""Which nodes have, or ever had, which device: only they may report about it.

Reports come late: the device may have moved or be gone by then. So what was once assigned is remembered, by uid, in SQL.
"""

import asyncio
from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, select

from cloudcore.hub.scope_devices import device_node
from cloudcore.kube.informer import Informer, Name
from cloudcore.link_log import driver_sql
from cloudcore.sql import Sql, SqlUnavailable
from cloudcore.tables import DeviceOwner
from proto.kit.clock import Clock
from proto.kit.log import Logger

FLUSH_S = 0.2  # assignments are written in batches; until then memory knows them
RETRY_S = 2.0
PUT_OWNER = "INSERT INTO device_owner (uid, node) VALUES (?, ?) ON CONFLICT (uid, node) DO NOTHING"
log = Logger("owners")
_owner: Any = DeviceOwner.__table__  # type: ignore[attr-defined]


class Owners:
    """Fed by the Device informer; ``load`` before the link starts."""

    def __init__(self, sql: Sql, devices: Informer, clock: Clock) -> None:
        self._sql, self._devices, self._clock = sql, devices, clock
        self._nodes_of: dict[str, set[str]] = defaultdict(set)
        self._new: set[tuple[str, str]] = set()
        self._signal = asyncio.Event()
        devices.listen(self._on_device)

    async def load(self) -> None:
        """Read what earlier processes knew. Raises SqlUnavailable."""
        for uid, node in await self._sql.read(lambda conn: conn.execute(select(_owner.c.uid, _owner.c.node)).all()):
            self._nodes_of[uid].add(node)
            self._new.discard((uid, node))

    def may_report(self, node: str, namespace: str, name: str, uid: str) -> bool:
        """Whether ``node`` may say something about this device.

        A device that nobody here knows, as after a restore, is believed: there is nobody that it could be taken from.
        """
        owners = self._nodes_of.get(uid)
        if owners is not None:
            return node in owners
        device = self._devices.objects.get(Name(namespace, name))
        return device is None or device_node(device) == node

    async def run(self) -> None:
        """Write new assignments, for ever."""
        while True:
            await self._signal.wait()
            await self._clock.sleep(FLUSH_S)
            self._signal.clear()
            batch = sorted(self._new)
            if not batch:
                continue
            try:
                await self._sql.tx(lambda conn, batch=batch: _store(conn, batch))  # type: ignore[misc]
                self._new.difference_update(batch)
            except SqlUnavailable as error:
                log.debug("assignments not written", error=error)
                self._signal.set()
                await self._clock.sleep(RETRY_S)

    def _on_device(self, _name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        node = device_node(new)
        if new is None or not node:
            return
        uid = new["metadata"]["uid"]
        if node not in self._nodes_of[uid]:
            self._nodes_of[uid].add(node)
            self._new.add((uid, node))
            self._signal.set()


def _store(conn: Connection, batch: list[tuple[str, str]]) -> None:
    conn.exec_driver_sql(driver_sql(conn, PUT_OWNER), batch)

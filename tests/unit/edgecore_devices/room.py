"""A device room on a real database and store, with a broker and an outbox that remember what they were given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from devicetwin.model import API_VERSION, DeviceId
from edgecore.devices.controller import SCHEMA, DeviceController
from edgecore.devices.mqtt import Receive
from edgecore.kinds import DEVICE, DEVICE_MODEL, DEVICE_STATUS, registry
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.errors import StorageFull
from proto.kit.metrics import Metrics
from proto.link.outbox import Outbox
from tests.kit.clock import ManualClock

NODE = "gw-1"
KILN = DeviceId("default", "kiln")
MODEL = {
    "apiVersion": API_VERSION,
    "kind": "DeviceModel",
    "metadata": {"name": "thermostat", "namespace": "default", "uid": "m-1"},
    "spec": {
        "properties": [
            {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly", "minimum": "-40", "maximum": "1400"},
            {"name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "1300"},
            {"name": "mode", "type": "STRING", "accessMode": "ReadWrite"},
            {"name": "lit", "type": "BOOLEAN", "accessMode": "ReadWrite"},
        ]
    },
}


def device(
    name: str = "kiln",
    *,
    generation: int = 1,
    uid: str = "u-1",
    desired: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Device of MODEL on NODE that asks for ``desired``."""
    asked = desired or {}
    names = ("temperature", "setpoint", "mode", "lit")
    properties = [{"name": n} | ({"desired": {"value": asked[n]}} if n in asked else {}) for n in names]
    return {
        "apiVersion": API_VERSION,
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": generation},
        "spec": {"deviceModelRef": {"name": "thermostat"}, "nodeName": NODE, "properties": properties} | spec,
    }


class RecordingBroker:
    """PORT DeviceBroker in memory."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.receive: Receive | None = None
        self.deaf: set[str] = set()  # topics that nobody listens to

    async def run(self, receive: Receive) -> None:
        self.receive = receive
        await asyncio.get_running_loop().create_future()

    def publish(self, topic: str, payload: bytes) -> None:
        self.sent.append((topic, payload))

    def listens(self, topic: str) -> bool:
        return topic not in self.deaf

    def take(self, topic: str) -> list[Any]:
        """Return and forget the decoded messages on ``topic``."""
        found = [canonical.decode(payload) for t, payload in self.sent if t == topic]
        self.sent = [(t, p) for t, p in self.sent if t != topic]
        return found


class RecordingOutbox(Outbox):
    """An outbox whose rows are lists; ``full`` makes every put fail as a full disk does."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self.messages: list[Any] = []
        self.state_writes = 0
        self.full = False
        self.on_their_way = 0  # statuses that a busy cloud has yet to acknowledge

    def waiting_states(self) -> int:
        return self.on_their_way

    def put_state(self, tx: Tx, key: str, body: bytes, *, priority: int = 1) -> None:
        self._check()

        def keep() -> None:
            self.states[key] = canonical.decode(body)
            self.state_writes += 1

        tx.after_commit(keep)

    def put_message(self, tx: Tx, kind: str, body: bytes) -> int:
        self._check()
        tx.after_commit(lambda: self.messages.append(canonical.decode(body)))
        return 1

    def forget_state(self, tx: Tx, key: str) -> None:
        tx.after_commit(lambda: self.states.pop(key, None))

    def _check(self) -> None:
        if self.full:
            raise StorageFull("no space left")


class Room:
    """Everything around one controller."""

    def __init__(self, db: Database, store: Store, clock: Clock) -> None:
        self.db, self.store, self.clock = db, store, clock
        self.broker = RecordingBroker()
        self.outbox = RecordingOutbox()
        self.metrics = Metrics()
        self.controller = DeviceController(NODE, db, store, self.outbox, self.broker, clock=clock, metrics=self.metrics)

    async def put(self, *objects: dict[str, Any]) -> None:
        """Store Devices and DeviceModels as the link's sync does, and wait until the twins follow."""

        def write(tx: Tx) -> None:
            for obj in objects:
                self.store.put(tx, DEVICE if obj["kind"] == "Device" else DEVICE_MODEL, obj)

        await self.db.tx(write)
        await self.controller.settled()

    async def remove(self, name: str) -> None:
        await self.db.tx(lambda tx: self.store.remove(tx, DEVICE, "default", name))
        await self.controller.settled()

    async def send(self, topic: str, message: Any) -> None:
        """Publish as a device and wait for PUBACK."""
        payload = message if isinstance(message, bytes) else canonical.encode(message)
        await self.controller.receive(topic, payload)

    def status(self, name: str = "kiln") -> dict[str, Any]:
        stored = self.store.get(DEVICE_STATUS, "default", name)
        return {} if stored is None else stored["status"]

    def twin(self, prop: str, name: str = "kiln") -> dict[str, Any]:
        """Return the DeviceStatus' twin of ``prop``; empty when it is not there."""
        return next((t for t in self.status(name).get("twins", []) if t["propertyName"] == prop), {})

    def condition(self, kind: str, name: str = "kiln") -> dict[str, Any]:
        return next((c for c in self.status(name).get("conditions", []) if c["type"] == kind), {})


@asynccontextmanager
async def open_room(folder: Path, clock: Clock | None = None) -> AsyncIterator[Room]:
    """Open a room over ``folder``'s database; open it again to see what survives."""
    clock = clock or ManualClock()
    db = Database.open(folder / "edge.db", [SCHEMA])
    store = await Store.open(db, registry(), clock)
    room = Room(db, store, clock)
    await room.controller.settled()
    try:
        yield room
    finally:
        await db.close()

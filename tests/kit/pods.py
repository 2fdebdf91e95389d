"""A pod room on its own: a real store and database, a real or a recorded runtime, no cloud."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgecore import kinds
from edgecore.data_dir import DataDir
from edgecore.pods import choice
from edgecore.pods.facts import NodeFacts
from edgecore.pods.poddirs import memory_home
from edgecore.pods.room import SCHEMA, OpenRuntime, PodRoom, Surroundings
from edgecore.pods.settings import PodsSettings
from kubeapi.kinds import POD
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.backoff import Rng
from proto.kit.clock import Clock, SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database, Tx
from proto.kit.metrics import Metrics
from proto.link import edge as link
from proto.link.outbox import Outbox
from proto.link.settings import LinkSettings
from tests.kit.containerd import Host
from tests.kit.images import BUSYBOX_REF
from tests.kit.wait import eventually

NODE = "gw-1"
Json = dict[str, Any]


def container(name: str = "main", command: tuple[str, ...] = ("sleep", "1000"), **fields: Any) -> Json:
    return {
        "name": name,
        "image": BUSYBOX_REF,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        **fields,
    }


def uid_of(name: str) -> str:
    """The uid of a pod made here: another one in each test run, since cgroups are the whole machine's."""
    return f"uid-{name}-{os.getpid()}"


def pod(name: str, *containers: Json, labels: Mapping[str, str] | None = None, uid: str = "", **spec: Any) -> Json:
    """A pod of this node as it arrives from the cloud."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or uid_of(name), "labels": dict(labels or {})},
        "spec": {
            "nodeName": NODE,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": list(containers) or [container()],
            **spec,
        },
    }


def on_containerd(host: Host, **more: Any) -> PodsSettings:
    return PodsSettings(runtime="cri", cri_socket=str(host.socket), **more)


class PodWorld:
    """One node's pods. ``cpu_milli`` and ``memory_bytes`` are what it has for them."""

    db: Database
    store: Store
    outbox: Outbox
    room: PodRoom

    def __init__(self, directory: DataDir, clock: Clock) -> None:
        self.directory, self.clock = directory, clock
        self.metrics = Metrics()
        self.synced = False
        self.boot_id = "boot-1"
        self.mirrors: dict[str, str] = {}
        self.cpu_milli, self.memory_bytes = 4000, 4 << 30
        self.free = (1 << 40, 1 << 40)
        self.addresses = ("192.0.2.10",)
        self.supervisor = Supervisor(clock)

    async def open(self) -> None:
        """Open what the disk holds, as a new process does."""
        self.db = Database.open(self.directory.database, [link.SCHEMA, SCHEMA])
        self.store = await Store.open(self.db, kinds.registry(), self.clock, decoded_objects=256)
        self.outbox = Outbox(LinkSettings(), clock=self.clock, metrics=self.metrics, read=self.db.read)

    def begin(self, settings: PodsSettings, open_runtime: OpenRuntime = choice.open_runtime) -> None:
        """Start the room."""
        around = Surroundings(
            facts=lambda: NodeFacts(NODE, self.addresses, {"kubernetes.io/os": "linux"}, boot_id=self.boot_id),
            allocatable=lambda: {
                "cpu": self.cpu_milli,
                "memory": self.memory_bytes,
                "ephemeral-storage": 1 << 34,
                "pods": 110,
            },
            synced=lambda: self.synced,
            online=lambda: False,
            free=lambda: self.free,
            mirrors=lambda: self.mirrors,
        )
        self.room = PodRoom(
            self.directory,
            self.db,
            self.store,
            self.outbox,
            settings,
            around,
            clock=self.clock,
            rng=Rng(1),
            metrics=self.metrics,
            open_runtime=open_runtime,
        )
        self.supervisor.spawn(self.room.run(), "pods")

    async def end(self) -> None:
        """Stop as SIGKILL would: nothing is told, nothing that runs is touched."""
        await self.supervisor.close()
        if self.room.runtime is not None:
            await self.room.runtime.close()
        await self.db.close()

    async def empty(self) -> None:
        """Take every pod away and wait until nothing of them is left."""
        for stored in list(self.store.items(POD, None)):
            await self.remove(stored.name)
        await eventually(lambda: self.room.controller is not None and not self.room.controller.entries, 30)

    async def put(self, obj: Json, kind: Resource = POD) -> None:
        """As the link does: the spec is the cloud's, the status stays."""

        def write(tx: Tx) -> None:
            before = self.store.peek(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            same = before is not None and before.object["metadata"].get("uid") == obj["metadata"].get("uid")
            kept = (
                {"status": before.object["status"]} if before is not None and same and "status" in before.object else {}
            )
            self.store.put(tx, kind, {**obj, **kept})

        await self.db.tx(write)

    async def remove(self, name: str, kind: Resource = POD) -> None:
        await self.db.tx(lambda tx: self.store.remove(tx, kind, "default", name))

    async def delete(self, name: str, grace_s: int | None = None) -> None:
        """As ``kubectl delete`` does: the pod is marked, and gone once the node says so."""
        found = self.store.get(POD, "default", name)
        assert found is not None
        grace = found["spec"]["terminationGracePeriodSeconds"] if grace_s is None else grace_s
        marks = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
        await self.put({**found, "metadata": {**found["metadata"], **marks}})

    def status(self, name: str) -> Json:
        found = self.store.get(POD, "default", name)
        return (found or {}).get("status") or {}

    def state(self, name: str, index: int = 0) -> Json:
        """The status of one container."""
        found = self.status(name).get("containerStatuses") or [{}]
        state: Json = found[index]
        return state

    async def phase(self, name: str, phase: str, timeout_s: float = 20.0) -> Json:
        """Wait for a phase; return the status."""
        await eventually(lambda: self.status(name).get("phase") == phase, timeout_s)
        return self.status(name)

    async def ready(self, *names: str, timeout_s: float = 20.0) -> None:
        await eventually(lambda: all(self.is_ready(name) for name in names), timeout_s)

    def is_ready(self, name: str) -> bool:
        return any(c["type"] == "Ready" and c["status"] == "True" for c in self.status(name).get("conditions") or [])

    def messages(self, kind: str) -> list[Json]:
        """The bodies of a kind of message in the outbox, in order."""
        rows = self.db.read(
            lambda conn: conn.execute("SELECT body FROM link_message WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
        )
        return [canonical.decode(row[0]) for row in rows]

    def events(self, reason: str) -> list[Json]:
        return [event for event in self.messages("event") if event["reason"] == reason]

    def told(self, name: str) -> Json:
        """What waits for the cloud as the status of a pod."""
        key = f"core/pods/default/{name}"
        row = self.db.read(lambda conn: conn.execute("SELECT body FROM link_state WHERE key = ?", (key,)).fetchone())
        return canonical.decode(row[0]) if row else {}


@asynccontextmanager
async def world(folder: Path, clock: Clock | None = None) -> AsyncIterator[PodWorld]:
    """A node without a room yet: call ``begin``."""
    one = PodWorld(DataDir(folder), clock or SystemClock())
    await one.open()
    try:
        yield one
    finally:
        await one.end()
        memory = memory_home(folder)
        if memory is not None:  # what a test did not forget would stay in memory
            shutil.rmtree(memory, ignore_errors=True)

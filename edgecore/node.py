"""This gateway as a Node: its status (state lane, on change only), its registration and its lease (message lane).

Reads the machine and the link. The only writer of the status of ``core/nodes/-/NAME``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgecore import events, machine
from edgecore.machine import Facts
from edgecore.settings import NodeOptions
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Database, Tx
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.kit.version import VERSION
from proto.link.edge import LinkStatus
from proto.names import ObjectKey

SCHEMA = """
CREATE TABLE IF NOT EXISTS node_status (
  id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, core BLOB NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS node_registered (
  id INTEGER PRIMARY KEY CHECK (id = 1), digest BLOB NOT NULL
);
"""
MEMORY_STEP_BYTES = 1 << 20  # capacity is rounded down, so that a kernel's rounding is no change
HOSTNAME_LABEL = "kubernetes.io/hostname"

FIRST = 0  # after an outage the node's own status goes before those of its devices
REGISTER_AGAIN_S = 30.0  # how long the cloud gets to send our Node before it is told again

log = Logger("node")


@dataclass(frozen=True, slots=True)
class Workloads:
    """What the pod room says for the Node. ``pods`` 0: none can run here. ``images``: (names, bytes), largest first."""

    pods: int = 0
    runtime: str = "none://"
    ready: bool = True
    reason: str = "EdgeReady"
    message: str = "edgecore is serving"
    images: tuple[tuple[tuple[str, ...], int], ...] = ()
    reserved_cpu_milli: int = 0
    reserved_memory_bytes: int = 0
    reserved_disk_bytes: int = 0
    volumes_in_use: tuple[str, ...] = ()
    image_disk_free_bytes: int | None = None


class Outbox(Protocol):
    """What this room needs of the link's outbox."""

    def put_state(self, tx: Tx, key: str, body: bytes, *, priority: int) -> Any: ...
    def put_message(self, tx: Tx, kind: str, body: bytes) -> Any: ...


def key_of(name: str) -> str:
    """The key of the Node ``name``."""
    return str(ObjectKey("", "nodes", "", name))


def node_object(name: str, facts: Facts, labels: Mapping[str, str]) -> dict[str, Any]:
    """The Node as it registers itself: no status, no spec that the cloud would have to keep."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                HOSTNAME_LABEL: name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": facts.architecture,
                "node-role.kubernetes.io/edge": "",
                **labels,
            },
        },
        "spec": {},
    }


def conditions(facts: Facts, options: NodeOptions, workloads: Workloads = Workloads()) -> list[dict[str, str]]:
    """The Node's conditions without times, in a fixed order."""
    image_free = workloads.image_disk_free_bytes
    free = facts.disk_free_bytes if image_free is None else min(facts.disk_free_bytes, image_free)
    disk_low = free < options.disk_low_bytes
    memory_low = facts.memory_free_bytes < options.memory_low_bytes
    return [
        _condition(
            "MemoryPressure",
            memory_low,
            ("EdgeHasInsufficientMemory", f"less than {options.memory_low_bytes} bytes of memory are free"),
            ("EdgeHasSufficientMemory", "enough memory is free"),
        ),
        _condition(
            "DiskPressure",
            disk_low,
            ("EdgeHasDiskPressure", f"less than {options.disk_low_bytes} bytes of disk are free"),
            ("EdgeHasNoDiskPressure", "enough disk is free"),
        ),
        _condition("PIDPressure", False, ("", ""), ("EdgeHasSufficientPID", "enough process ids are free")),
        _condition("Ready", workloads.ready, *[(workloads.reason, workloads.message)] * 2),
    ]


def allocatable(facts: Facts, workloads: Workloads) -> dict[str, int]:
    """What pods may use: thousandths of a CPU, bytes, a count."""
    return {
        "cpu": max(0, facts.cpus * 1000 - workloads.reserved_cpu_milli),
        "memory": max(0, _memory(facts) - workloads.reserved_memory_bytes),
        "ephemeral-storage": max(0, facts.disk_bytes - workloads.reserved_disk_bytes),
        "pods": workloads.pods,
    }


def status(name: str, facts: Facts, options: NodeOptions, workloads: Workloads = Workloads()) -> dict[str, Any]:
    """The Node's status without times: equal means nothing to tell (observe)."""
    capacity = {"cpu": facts.cpus * 1000, "memory": _memory(facts), "ephemeral-storage": facts.disk_bytes}
    out: dict[str, Any] = {
        "addresses": [
            {"type": "InternalIP", "address": options.address or facts.address},
            {"type": "Hostname", "address": name},
        ],
        "allocatable": _quantities(allocatable(facts, workloads)),
        "capacity": _quantities({**capacity, "pods": workloads.pods}),
        "conditions": conditions(facts, options, workloads),
        "nodeInfo": {
            "architecture": facts.architecture,
            "bootID": facts.boot_id,
            "containerRuntimeVersion": workloads.runtime,
            "kernelVersion": facts.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": f"v{VERSION}",
            "machineID": facts.machine_id,
            "operatingSystem": "linux",
            "osImage": facts.os_image,
            "systemUUID": facts.machine_id,
        },
    }
    if workloads.images:
        out["images"] = [{"names": list(names), "sizeBytes": size} for names, size in workloads.images]
    if workloads.volumes_in_use:
        out["volumesInUse"] = list(workloads.volumes_in_use)
    return out


def _memory(facts: Facts) -> int:
    return facts.memory_bytes // MEMORY_STEP_BYTES * MEMORY_STEP_BYTES


def _quantities(amounts: Mapping[str, int]) -> dict[str, str]:
    cpu = amounts["cpu"]
    return {
        "cpu": f"{cpu}m" if cpu % 1000 else str(cpu // 1000),
        "memory": f"{amounts['memory'] // 1024}Ki",
        "ephemeral-storage": f"{amounts['ephemeral-storage'] // 1024}Ki",
        "pods": str(amounts["pods"]),
    }


def timed(core: dict[str, Any], before: dict[str, Any], now: str) -> dict[str, Any]:
    """``core`` with heartbeat and transition times; a condition whose status stays keeps its transition time."""
    old = {item["type"]: item for item in before.get("conditions", [])}
    out = []
    for item in core["conditions"]:
        known = old.get(item["type"])
        same = known is not None and known.get("status") == item["status"]
        since = known["lastTransitionTime"] if known is not None and same else now
        out.append({**item, "lastHeartbeatTime": now, "lastTransitionTime": since})
    return {**core, "conditions": out}


class NodeStatus:
    """Keeps the Node's status, registration and lease on their way to the cloud."""

    def __init__(
        self,
        name: str,
        db: Database,
        outbox: Outbox,
        options: NodeOptions,
        *,
        disk: Path,
        cloud_host: str,
        clock: Clock,
    ) -> None:
        self.name = name
        self._db = db
        self._outbox = outbox
        self._options = options
        self._labels = dict(text.split("=", 1) for text in options.labels)
        self._clock = clock
        row = db.read(lambda conn: conn.execute("SELECT version, core, body FROM node_status").fetchone())
        self._version: int = row[0] if row else 0
        self._core: bytes = row[1] if row else b""
        self._body: bytes = row[2] if row else b""
        mark = db.read(lambda conn: conn.execute("SELECT digest FROM node_registered").fetchone())
        self._registered: bytes = mark[0] if mark else b""
        self.look: Callable[[], Facts] = lambda: machine.observe(disk, cloud_host)
        self.facts = self.look()
        self.workloads: Callable[[], Workloads] = Workloads
        self.asked: Callable[[], bool] = lambda: True  # whether the pod room knows its runtime since this start

    @property
    def labels(self) -> dict[str, str]:
        """The labels this node registers with; the cloud may have added more."""
        return dict(node_object(self.name, self.facts, self._labels)["metadata"]["labels"])

    def addresses(self) -> tuple[str, ...]:
        """Where this node is reached, as its status says."""
        return (self._options.address or self.facts.address,)

    @property
    def body(self) -> bytes:
        """The status body last put into the outbox; empty before the first."""
        return self._body

    @property
    def shown(self) -> dict[str, Any] | None:
        """The status last put into the outbox, as an object."""
        return canonical.decode(self._body)["status"] if self._body else None

    async def refresh(self) -> bool:
        """Look at the machine; put a new status into the outbox when it differs. Returns whether it did."""
        self.facts = self.look()
        core = status(self.name, self.facts, self._options, self.workloads())
        encoded = canonical.encode(core)
        if encoded == self._core:
            return False
        before = canonical.decode(self._body)["status"] if self._body else {}
        version = self._version + 1
        now = rfc3339(self._clock.wall())
        shown = timed(core, before, now)
        heard = [events.body(self.name, said, now) for said in events.between(before, core)]
        body = canonical.encode({"uid": "", "version": version, "status": shown})

        def write(tx: Tx) -> None:
            tx.execute(
                "INSERT INTO node_status (id, version, core, body) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                " SET version = excluded.version, core = excluded.core, body = excluded.body",
                (version, encoded, body),
            )
            self._outbox.put_state(tx, key_of(self.name), body, priority=FIRST)
            for each in heard:
                self._outbox.put_message(tx, events.KIND, each)

        await self._db.tx(write)
        self._version, self._core, self._body = version, encoded, body
        return True

    async def register(self, *, known_to_cloud: bool) -> bool:
        """Tell the cloud who this is, once per content, and again while the cloud does not know this Node."""
        node = node_object(self.name, self.facts, self._labels)
        mark = canonical.digest(node)
        if known_to_cloud and mark == self._registered:
            return False

        def write(tx: Tx) -> None:
            tx.execute("INSERT OR REPLACE INTO node_registered (id, digest) VALUES (1, ?)", (mark,))
            self._outbox.put_message(tx, "register", canonical.encode(node))

        await self._db.tx(write)
        self._registered = mark
        log.info("registration queued", node=self.name)
        return True

    async def lease(self) -> None:
        """Put one lease message into the outbox."""
        await self._db.tx(lambda tx: self._outbox.put_message(tx, "lease", b"{}"))


class NodeRoom:
    """Turns once a second: status on change, registration while the cloud does not know us, the lease each minute."""

    def __init__(
        self,
        status: NodeStatus,
        options: NodeOptions,
        *,
        link: Callable[[], LinkStatus],
        known: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self.trouble = ""  # why nothing can be written now
        self._status = status
        self._options = options
        self._link = link
        self._known = known
        self._clock = clock
        self._looked_at_s = self._registered_at_s = self._leased_at_s = float("-inf")
        self._began_s = clock.now_s()
        self._said = ("", "")  # reason and runtime that were last looked at
        self._epoch = 0

    async def turn(self) -> None:
        """One turn; a full disk is said once and waited for."""
        try:
            await self._turn(self._clock.now_s(), self._link())
        except Retryable as error:
            if not self.trouble:
                log.warning("node status cannot be kept", reason=str(error))
            self.trouble = str(error)
        else:
            if self.trouble:
                log.info("node status is kept again")
            self.trouble = ""

    async def _turn(self, now_s: float, link: LinkStatus) -> None:
        if self._must_look(now_s):
            self._looked_at_s = now_s
            await self._status.refresh()
        if self._registered_at_s == float("-inf"):
            self._registered_at_s = now_s
            await self._status.register(known_to_cloud=True)
        elif link.connected and not self._known() and now_s - self._registered_at_s >= REGISTER_AGAIN_S:
            self._registered_at_s = now_s
            await self._status.register(known_to_cloud=False)
        due = link.epoch != self._epoch or now_s - self._leased_at_s >= self._options.lease_every_s
        if link.connected and due:
            self._leased_at_s, self._epoch = now_s, link.epoch
            await self._status.lease()

    def _must_look(self, now_s: float) -> bool:
        """The time has come, or the runtime went or came back. A start is no news: the last status stands until the runtime was asked."""
        every_s = self._options.status_every_s
        if not self._status.asked() and now_s - self._began_s < every_s:
            return False
        workloads = self._status.workloads()
        before, self._said = self._said, (workloads.reason, workloads.runtime)
        return before != self._said or now_s - self._looked_at_s >= every_s


def _condition(kind: str, true: bool, when_true: tuple[str, str], when_false: tuple[str, str]) -> dict[str, str]:
    reason, message = when_true if true else when_false
    return {"type": kind, "status": "True" if true else "False", "reason": reason, "message": message}

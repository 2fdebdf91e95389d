"""The edge daemon, put together: one database, the store, the link, the device room, renewal, health."""

import gc
import os
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from devicetwin.mappers import FACTORIES
from devicetwin.mappers.host.mapper import HostMapper
from devicetwin.mappers.simulated.mapper import SimulatedMapper
from edgecore import device_broker, kinds, machine, node, status, sync, vitals
from edgecore.api import Api
from edgecore.data_dir import DataDir, Lock, Running
from edgecore.devices import controller
from edgecore.devices.controller import DeviceController
from edgecore.devices.mappers import Mappers
from edgecore.door import Door
from edgecore.localapi import journal as offline_writes
from edgecore.localapi.continuation import Continuation
from edgecore.localapi.events import LocalEvents
from edgecore.localapi.journal import Journal
from edgecore.localapi.refusals import Refusals
from edgecore.localapi.server import LocalApi
from edgecore.node import NodeRoom, NodeStatus
from edgecore.pods import room as pod_room
from edgecore.pods.calls import PodCalls
from edgecore.pods.facts import NodeFacts
from edgecore.pods.room import PodRoom, Surroundings
from edgecore.renewal import Renewal
from edgecore.settings import Settings
from edgecore.sync import Replica
from kubeapi.kinds import POD
from kubeapi.store import Limits, Store
from proto import writes
from proto.kit import daemon
from proto.kit.backoff import Rng
from proto.kit.clock import Clock, SystemClock, rfc3339
from proto.kit.database import Database
from proto.kit.errors import SkerryError, StorageFull
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.tls import client_contexts
from proto.link import edge as link
from proto.link.client import PahoBroker
from proto.link.edge import EdgeLink
from proto.link.streams import EdgeStreams

log = Logger("edgecore")
STORE_HISTORY = Limits(rows=1000, bytes=4 << 20, batch=64)  # nobody watches an edge's store from long ago
DECODED_OBJECTS = 256
SCHEMAS = (
    link.SCHEMA,
    device_broker.SCHEMA,
    controller.SCHEMA,
    node.SCHEMA,
    sync.SCHEMA,
    offline_writes.SCHEMA,
    pod_room.SCHEMA,
)
NODE_TURN_S = 1.0
LEAST_FREE_BYTES = 1 << 20
OPENING_BYTES = 64 << 10  # the -wal and -shm files that opening a database makes
EXIT_FAILED = 1


async def serve(directory: DataDir, settings: Settings) -> int:
    """Run the daemon until a signal; return its exit code. Raises SkerryError when it cannot start."""
    lock = Lock(directory)
    lock.take()
    try:
        async with AsyncExitStack() as stack:
            app = await start(directory, settings, stack, SystemClock())
            lock.say(Running(os.getpid(), settings.api.host, app.api_port))
            gc.collect()
            gc.freeze()  # what a start allocates lives as long as the process: no later collection walks it
            app.supervisor.listen_for_signals()
            daemon.ready("edgecore", app.addresses())
            await app.supervisor.run_until_signal()
    except SkerryError:
        raise
    except Exception:
        log.exception("edgecore stops: a part of it failed")
        return EXIT_FAILED
    finally:
        lock.release()
    return 0


async def start(directory: DataDir, settings: Settings, stack: AsyncExitStack, clock: Clock) -> "App":
    """Open everything in the order in which a failure is cheapest to explain; ``stack`` closes it in reverse."""
    make_room(directory)
    db = Database.open(directory.database, SCHEMAS)
    stack.push_async_callback(db.close)
    store = await Store.open(db, kinds.registry(), clock, limits=STORE_HISTORY, decoded_objects=DECODED_OBJECTS)
    metrics, rng = Metrics(), Rng()
    store.register(metrics)
    broker = device_broker.open_broker(settings.device_broker, settings.node, db, clock=clock, rng=rng, metrics=metrics)
    stack.push_async_callback(broker.close)
    app = App(directory, settings, db, store, broker, clock=clock, rng=rng, metrics=metrics)
    stack.push_async_callback(app.supervisor.close)
    app.supervisor.spawn(app.pods.run(), "pods")  # before anything that waits for somebody
    app.api_port = await app.api.start(settings.api.host, settings.api.port)
    stack.push_async_callback(app.api.close)
    if app.local_api is not None:
        await app.local_api.start(app.supervisor)
        stack.push_async_callback(app.local_api.close)
    stack.push_async_callback(app.supervisor.close)
    app.spawn()
    await broker.listen(settings.device_broker, clock)
    if broker.reloading is not None:
        app.supervisor.spawn(broker.reloading.run(), "certificate-reload")
    return app


def make_room(directory: DataDir) -> None:
    """On a full disk, give the reserve back before SQLite needs its first page; the link takes it again later.

    Raises StorageFull when that is not enough.
    """
    if _free_bytes(directory) < LEAST_FREE_BYTES and directory.reserve.exists():
        log.warning("disk full: reserve released", file=directory.reserve)
        directory.reserve.unlink()
    if _free_bytes(directory) < OPENING_BYTES:
        raise StorageFull(f"no space left on the disk of {directory.path}: free some, then start edgecore again")


def _free_bytes(directory: DataDir) -> int:
    disk = os.statvfs(directory.path)
    return disk.f_bavail * disk.f_frsize


class App:
    """What runs: each part with what it needs, and nothing else."""

    def __init__(
        self,
        directory: DataDir,
        settings: Settings,
        db: Database,
        store: Store,
        broker: device_broker.Opened,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> None:
        self.directory, self.settings, self.store, self.broker = directory, settings, store, broker
        self.db = db
        self.clock, self.rng, self.metrics = clock, rng, metrics
        self.supervisor = daemon.Supervisor(clock)
        self.api_port = 0
        self._started = rfc3339(clock.wall())
        name = settings.node
        self.journal = Journal(
            name, Refusals(name, store, clock), clock=clock, metrics=metrics, waiting=db.read(offline_writes.waiting)
        )
        self.replica = Replica(
            name,
            db,
            store,
            store.registry,
            statuses_of=self._statuses,
            node_status=lambda: self.node.shown,
            metrics=metrics,
            messages={writes.RESULT: self.journal.answered},
            offline=self.journal,
        )
        self.link = EdgeLink(
            name, self._cloud(), db, self.replica, settings.link, clock=clock, rng=rng, metrics=metrics
        )
        self.journal.connect(self.link.outbox, self.replica.show)
        self.continuation = Continuation(
            name,
            store,
            self.journal,
            self.link.outbox,
            online=lambda: self.link.status().connected,
            clock=clock,
            rng=rng,
        )
        self.journal.adopt = self.continuation.answers.adopt
        self.node = NodeStatus(
            name,
            db,
            self.link.outbox,
            settings.node_options,
            disk=directory.path,
            cloud_host=urlsplit(settings.cloud.broker).hostname or "",
            clock=clock,
        )
        self.pods = PodRoom(
            directory,
            db,
            store,
            self.link.outbox,
            settings.pods,
            self._around_pods(),
            clock=clock,
            rng=rng,
            metrics=metrics,
        )
        self.calls = PodCalls(
            name,
            store,
            lambda: self.pods.runtime,
            disk=directory.path,
            clock=clock,
            why=lambda: self.pods.workloads().message,
        )
        self.local_api = self._local_api(rng) if settings.local_api.enabled else None
        self.door = Door(directory, self.calls.open, self.pods.restart)
        self.link.streams = EdgeStreams(self.calls.open, settings.link, clock=clock, metrics=metrics)
        self.node.workloads, self.node.asked = self.pods.workloads, self.pods.asked
        self.pods.writer.show_event = LocalEvents(name, store, clock).keep
        self.replica.mirrors_changed = self.journal.adopted = self.pods.mirrors_changed
        self.room = NodeRoom(
            self.node, settings.node_options, link=self.link.status, known=self.replica.knows_node, clock=clock
        )
        self.devices = DeviceController(
            name,
            db,
            store,
            self.link.outbox,
            broker.devices,
            clock=clock,
            metrics=metrics,
            stale_after_s=settings.devices.stale_after_s,
        )
        wanted = {
            HostMapper.protocol: settings.devices.host_mapper,
            SimulatedMapper.protocol: settings.devices.simulated_mapper,
        }
        factories = {protocol: make for protocol, make in FACTORIES.items() if wanted.get(protocol, True)}
        self.mappers = Mappers(name, self.devices, factories, clock=clock, rng=rng, metrics=metrics)
        self.renewal = Renewal(
            directory,
            name,
            settings.cloud.join,
            clock=clock,
            rng=rng,
            metrics=metrics,
            on_renewed=self.link.reconnect,
        )
        vitals.register(metrics, directory, db, self.link.status)
        self.api = Api(status=self.status, unready=lambda: self.room.trouble, metrics=metrics, clock=clock)

    def _cloud(self) -> PahoBroker:
        cloud, directory = self.settings.cloud, self.directory
        if not cloud.broker.startswith("mqtts:"):
            return PahoBroker(cloud.broker, clock=self.clock, version=cloud.mqtt_version)
        contexts = client_contexts(directory.certificate, directory.key, directory.ca, cloud.server_name)
        return PahoBroker(
            cloud.broker,
            clock=self.clock,
            tls=contexts,
            server_hostname=cloud.server_name,
            version=cloud.mqtt_version,
        )

    def _around_pods(self) -> Surroundings:
        local = self.settings.local_api
        return Surroundings(
            facts=self._facts_for_pods,
            allocatable=lambda: node.allocatable(self.node.facts, self.pods.workloads()),
            synced=lambda: self.replica.knows_node() and self.link.status().connected,
            online=lambda: self.link.status().connected,
            api=(local.pod_address, local.port) if local.enabled else None,
            free=lambda: machine.free_now(self.directory.path),
            mirrors=self.replica.mirrors,
        )

    def _facts_for_pods(self) -> NodeFacts:
        own = self.store.get(kinds.NODE, "", self.settings.node) or {}
        return NodeFacts(
            name=self.settings.node,
            addresses=self.node.addresses(),
            labels={**self.node.labels, **(own.get("metadata", {}).get("labels") or {})},
            allocatable=self.node.shown["allocatable"] if self.node.shown else {},
            memory_bytes=self.node.facts.memory_bytes,
            boot_id=self.node.facts.boot_id,
        )

    def _local_api(self, rng: Rng) -> LocalApi:
        return LocalApi.open(
            self.directory,
            self.settings.node,
            self.settings.local_api,
            self.store,
            self.journal,
            clock=self.clock,
            rng=rng,
            metrics=self.metrics,
            open_call=self.calls.open,
            pod_addresses=self.pods.addresses,
        )

    def spawn(self) -> None:
        """Start every long-lived task."""
        spawn = self.supervisor.spawn
        spawn(self.link.run(), "link")
        spawn(self.door.run(), "door")
        spawn(self.journal.run(self.db, lambda: self.link.status().connected), "offline-writes")
        spawn(self.continuation.run(), "continuation")
        spawn(self.devices.run(), "devices")
        spawn(self.mappers.run(), "mappers")
        if self.settings.cloud.join:
            spawn(self.renewal.run(), "renewal")
        spawn(daemon.forever(self.room.turn, every_s=NODE_TURN_S, clock=self.clock, name="node"), "node")

    def addresses(self) -> dict[str, str]:
        """What the ready line shows."""
        host = self.settings.api.host
        shown = f"[{host}]" if ":" in host else host
        out = {"node": self.settings.node, "mqtt": self.broker.address, "api": f"http://{shown}:{self.api_port}"}
        if self.local_api is not None:
            out["kubernetes"] = f"https://{self.settings.local_api.host}:{self.local_api.port}"
        return out

    def _statuses(self) -> dict[str, bytes]:
        own = {node.key_of(self.settings.node): self.node.body} if self.node.body else {}
        return own | self.devices.statuses() | self.pods.statuses()

    def status(self) -> dict[str, Any]:
        """The document behind ``/status``."""
        return status.document(
            node=self.settings.node,
            daemon={"running": True, "pid": os.getpid(), "since": self._started},
            link=status.link_document(self.link.status(), self.settings.cloud.broker, self.clock),
            devices=self.store.list(kinds.DEVICE, None),
            statuses=self.store.list(kinds.DEVICE_STATUS, None),
            pods=self.store.list(POD, None),
            runtime=self.pods.workloads().runtime,
            directory=self.directory,
            now=self.clock.wall(),
            local_api=None if self.local_api is None else self.local_api.summary(),
        )

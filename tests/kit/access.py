"""Brokers with real identities for the access matrix: certificates of every sort, and a blocking MQTT client."""

import asyncio
import getpass
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from cryptography.hazmat.primitives import serialization
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cloudcore import revocation
from cloudcore.broker_access import CLOUD_USER, BrokerAccess
from cloudcore.broker_files import BrokerFiles
from cloudcore.certs import Authority, Pair
from cloudcore.revocation import Revocations
from cloudcore.sql import Sql
from proto.kit.clock import SystemClock
from proto.kit.metrics import Metrics
from proto.kit.tls import client_context, server_context
from proto.mqtt.broker import MqttBroker
from proto.mqtt.limits import BrokerSettings
from tests.kit.identity import Identity, identity, new_key
from tests.kit.ports import free_port

WAIT_S = 5.0
CLOCK = SystemClock()
NODES = ("gw-1", "gw-2", "gw-3", "gw-4")


def until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for a condition that another thread or process makes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: still false after {timeout_s} s")
        time.sleep(0.005)


@dataclass
class World:
    """Certificates on disk by name, and how to reach the broker under test."""

    directory: Path
    port: int = 0
    pairs: dict[str, Pair] = field(default_factory=dict)
    revoke: Callable[[str], None] = lambda _node: None

    @property
    def ca(self) -> Path:
        return self.directory / "cloud" / "pki" / "ca.crt"

    def connect(self, who: str, client_id: str = "", **options: Any) -> "Client":
        """Connect as ``who``; look at ``.accepted``."""
        return Client(self, who, client_id or who, **options)


class Client:
    """One MQTT connection. ``accepted`` is False when TLS or the broker refused it."""

    def __init__(self, world: World, who: str, client_id: str, *, will: str = "", version: int = paho.MQTTv5) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.ended = threading.Event()
        self.accepted = False
        self._answered = threading.Event()
        self._codes: dict[int, list[Any]] = {}
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=version,  # type: ignore[arg-type]
            reconnect_on_failure=False,
        )
        pair = world.pairs.get(who)
        context = client_context(pair.cert if pair else None, pair.key if pair else None, world.ca)
        client.tls_set_context(context)
        if will:
            client.will_set(will, b"will of " + who.encode(), qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_codes
        client.on_publish = self._on_published
        try:
            client.connect("127.0.0.1", world.port, keepalive=30)
        except (OSError, ssl.SSLError):
            return
        client.loop_start()
        self._answered.wait(WAIT_S)

    def _on_connect(self, _c: Any, _u: Any, _f: Any, code: ReasonCode, _p: Properties | None) -> None:
        self.accepted = not code.is_failure
        self._answered.set()

    def _on_disconnect(self, *_: Any) -> None:
        self._answered.set()
        self.ended.set()

    def _on_message(self, _c: Any, _u: Any, message: paho.MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _on_codes(self, _c: Any, _u: Any, mid: int, codes: list[ReasonCode], _p: Properties | None) -> None:
        self._codes[mid] = codes

    def _on_published(self, _c: Any, _u: Any, mid: int, code: ReasonCode, _p: Properties | None) -> None:
        self._codes[mid] = [code]

    def subscribe(self, topic_filter: str) -> bool:
        """Whether the broker says that it granted the filter."""
        try:
            _, mid = self._client.subscribe(topic_filter, qos=1)
        except ValueError:  # paho knows that it is no filter
            return False
        until(lambda: mid in self._codes or self.ended.is_set(), f"SUBACK for {topic_filter}")
        return mid in self._codes and not any(code.is_failure for code in self._codes[mid])

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 1 and wait for the PUBACK, whatever it says, or for the end of the connection; whether it was the PUBACK."""
        mid = self._client.publish(topic, payload, qos=1).mid
        until(lambda: mid in self._codes or self.ended.is_set(), f"PUBACK for {topic}")
        return mid in self._codes

    def got(self, topic: str, payload: bytes) -> bool:
        return (topic, payload) in self.received

    def drop(self) -> None:
        """Cut the connection without DISCONNECT."""
        sock = self._client.socket()
        if isinstance(sock, ssl.SSLSocket):  # None where the broker refused
            sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def _issue(room: Identity, world: World) -> None:
    """Make one certificate of each sort."""

    def keep(name: str, cert: bytes, key: bytes) -> None:
        pair = Pair(world.directory / f"{name}.crt", world.directory / f"{name}.key")
        pair.cert.write_bytes(cert)
        pair.key.write_bytes(key)
        world.pairs[name] = pair

    async def join(name: str, node: str) -> None:
        key = new_key()
        answer = await room.join(await room.token(node=node), node, key)
        assert answer.status == 200, answer.body
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        keep(name, str(json.loads(answer.body)["certificate"]).encode(), private)

    for node in NODES[:3]:
        await join(node, node)
    await join("replaced gw-4", "gw-4")
    await join("gw-4", "gw-4")
    await room.sql.tx(lambda c: revocation.revoke(c, "gw-3", CLOCK.wall()))
    keep("cloud", *room.authority.issue(CLOUD_USER, ["system:masters"]))
    keep("pretender", *room.authority.issue(CLOUD_USER))
    keep("admin", *room.authority.issue("admin", ["system:masters"]))
    keep("server", *room.authority.issue("system:node:gw-1", ["system:nodes"], sans=["x"]))
    keep("expired gw-1", *room.authority.issue("system:node:gw-1", ["system:nodes"], days=-0.1))
    other = Authority.open_or_create(world.directory / "other", CLOCK)
    keep("foreign gw-1", *other.issue("system:node:gw-1", ["system:nodes"]))


def make_world(directory: Path) -> World:
    """Make a cloud with its nodes and their certificates."""
    world = World(directory)

    async def work() -> None:
        (directory / "cloud").mkdir()
        async with identity(directory / "cloud", CLOCK) as room:
            await _issue(room, world)

    asyncio.run(work())
    return world


@contextmanager
def embedded(world: World) -> Iterator[None]:
    """Serve our own broker, in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker")
    thread.start()

    def call(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_S)

    async def start() -> tuple[MqttBroker, Sql, Revocations]:
        authority = Authority.open_or_create(world.directory / "cloud" / "pki", CLOCK)
        sql = Sql.open(f"sqlite:///{world.directory / 'cloud' / 'cloud.db'}")
        revocations = Revocations(sql, CLOCK)
        await revocations.load()
        access = BrokerAccess(revocations, Metrics())
        broker = MqttBroker(
            BrokerSettings(connects_per_s=0), authenticate=access.authenticate, acl=access.acl, clock=CLOCK
        )
        revocations.subscribe(lambda node: (broker.kick_identity(f"system:node:{node}"), None)[1])
        pair = authority.server_certificate()
        context = server_context(pair.cert, pair.key, authority.ca_file, require_client=True)
        world.port = await broker.listen("127.0.0.1", 0, context)
        return broker, sql, revocations

    broker, sql, revocations = call(start())

    async def revoke(node: str) -> None:
        await sql.tx(lambda c: revocation.revoke(c, node, CLOCK.wall()))
        await revocations.load()

    world.revoke = lambda node: call(revoke(node))
    try:
        yield
    finally:
        call(broker.close())
        call(sql.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def mosquitto(world: World) -> Iterator[None]:
    """Serve Mosquitto with the files that ``cloudcore.broker_files`` writes."""
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert binary, "mosquitto is missing: make setup installs it"
    out = world.directory / "mosquitto"
    world.port = free_port()
    authority = Authority.open_or_create(world.directory / "cloud" / "pki", CLOCK)

    async def write(revoked: str = "") -> None:
        sql = Sql.open(f"sqlite:///{world.directory / 'cloud' / 'cloud.db'}")
        try:
            if revoked:
                await sql.tx(lambda c: revocation.revoke(c, revoked, CLOCK.wall()))
            await BrokerFiles(sql, authority, out, clock=CLOCK, port=world.port).update()
        finally:
            await sql.close()

    asyncio.run(write())
    conf = world.directory / "mosquitto.conf"
    stay = (
        f"user {getpass.getuser()}\n"  # the test's directories are ours alone; as root Mosquitto would become another
    )
    conf.write_text(stay + (out / "mosquitto.conf").read_text())
    with (world.directory / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([binary, "-c", str(conf)], stderr=log, stdout=log)
    world.revoke = lambda node: asyncio.run(write(node))
    try:
        until((out / "mosquitto.pid").exists, "mosquitto started")
        until(partial(_listens, world.port), "mosquitto listens")
        yield
    finally:
        process.terminate()
        process.wait(WAIT_S)

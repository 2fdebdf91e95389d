"""MQTT-2, MQTT-3, MQTT-5, MQTT-7 and MQTT-8 inside one process: sinks, quotas, slow clients, full disks, local connections."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proto.kit.database import Database
from proto.link.broker import ConnectionLost, Unreachable, Will
from proto.mqtt.broker import SCHEMA, BrokerSettings, MqttBroker, NotKept, PublishRefused
from proto.mqtt.local import LocalBroker
from proto.mqtt.packets import Publish
from tests.conformance.mqtt import wire as w
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.unit.mqtt.fakes import FakeClient


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    one = Database.open(tmp_path / "broker.db", [SCHEMA])
    yield one
    await one.close()


async def connected(broker: MqttBroker, cid: str = "a", **connect: object) -> FakeClient:
    client = FakeClient(broker)
    client.receive(w.connect(cid, **connect))  # type: ignore[arg-type]

    async def answered() -> bytes:
        return await client.sent()

    assert (await eventually(answered))[0] == 0x20
    return client


# --- sinks


async def test_puback_leaves_when_the_sink_resolved_and_messages_of_one_read_come_together() -> None:
    broker = MqttBroker()
    calls: list[list[Publish]] = []
    kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sink(messages: list[Publish]) -> "asyncio.Future[None]":
        calls.append(messages)
        return kept

    broker.add_sink("$hw/events/#", sink)
    client = await connected(broker)
    client.receive(w.publish("$hw/events/a", b"1", qos=1, pid=1) + w.publish("$hw/events/b", b"2", qos=2, pid=2))
    client.receive(w.publish("other", qos=1, pid=3))
    assert [(one.topic, one.client_id) for one in calls[0]] == [("$hw/events/a", "a"), ("$hw/events/b", "a")]
    assert await client.sent() == b""

    kept.set_result(None)

    assert await client.sent() == w.puback(1) + w.pubrec(2) + w.puback(3)


@pytest.mark.parametrize("version", [4, 5])
async def test_a_sink_that_fails_is_never_acknowledged(version: int) -> None:
    broker = MqttBroker()

    async def sink(messages: list[Publish]) -> None:
        raise OSError("no space")

    broker.add_sink("x", sink)
    client = await connected(broker, v=version)
    client.receive(w.publish("x", v=version, qos=1, pid=1))

    answer = await client.sent()

    assert answer == (w.puback(1, 0x97) if version == 5 else b"")
    assert client.transport.closed is (version == 4)


async def test_publish_from_inside_reaches_subscribers_but_not_the_excluded_sink() -> None:
    broker = MqttBroker()
    heard: list[str] = []

    def one(messages: list[Publish]) -> None:
        heard.append("one")

    def two(messages: list[Publish]) -> None:
        heard.append("two")

    broker.add_sink("x", one)
    broker.add_sink("x", two)
    client = await connected(broker)
    client.receive(w.subscribe(1, ("x", 1)))
    await client.sent()

    await broker.publish("x", b"1", 1, exclude=one)
    assert await client.sent() == w.publish("x", b"1", qos=1, pid=1)
    assert heard == ["two"]

    await broker.publish("x", b"2", 1, exclude="a")
    assert await client.sent() == b""
    with pytest.raises(PublishRefused):
        broker.publish("x/#", b"")


# --- what one client may cost


async def test_qos0_to_a_client_that_does_not_read_is_dropped_and_counted() -> None:
    broker = MqttBroker()
    slow = await connected(broker, "slow")
    slow.receive(w.subscribe(1, ("x", 1)))
    await slow.sent()
    slow.connection.pause_writing()

    await broker.publish("x", b"0", 0)
    await broker.publish("x", b"1", 1)

    assert await slow.sent() == b""
    assert broker.counters.dropped.value("slow_consumer") == 1
    slow.connection.resume_writing()
    assert await slow.sent() == w.publish("x", b"1", qos=1, pid=1)


async def test_a_client_that_only_sends_and_never_reads_is_closed() -> None:
    broker = MqttBroker(BrokerSettings(out_buffer_bytes=1000))
    slow = await connected(broker, "slow")
    slow.connection.pause_writing()
    slow.transport.buffered_bytes = 2001

    slow.receive(w.PINGREQ)
    await slow.sent()

    assert slow.transport.closed
    assert broker.counters.closed.value("slow_consumer") == 1
    assert not broker.sessions.by_id


async def test_a_full_queue_drops_the_newest_and_counts_it() -> None:
    broker = MqttBroker(BrokerSettings(queue_messages=2))
    away = await connected(broker, "away", clean=False)
    away.receive(w.subscribe(1, ("x", 1)) + w.disconnect())
    for number in range(4):
        await broker.publish("x", b"%d" % number, 1)

    assert broker.counters.dropped.value("queue_full") == 2
    away = FakeClient(broker)
    away.receive(w.connect("away", clean=False))
    assert await away.sent() == b"\x20\x02\x01\x00" + w.publish("x", b"0", qos=1, pid=1) + w.publish(
        "x", b"1", qos=1, pid=2
    )


async def test_a_client_that_connects_too_often_is_slowed_down_not_banned() -> None:
    clock = ManualClock()
    broker = MqttBroker(BrokerSettings(connects_burst=3, connects_per_s=1.0), clock=clock)
    answers = []
    for _ in range(5):
        client = FakeClient(broker)
        client.receive(w.connect("flap", v=5))
        answers.append((await client.sent())[3])
        client.lose()
    assert answers == [0, 0, 0, 0x9F, 0x9F]

    clock.advance(1.0)

    await connected(broker, "flap", v=5)


async def test_connections_of_one_address_that_do_not_authenticate_are_bounded() -> None:
    broker = MqttBroker(BrokerSettings(max_pending_per_address=2))
    waiting = [FakeClient(broker, address="10.0.0.9") for _ in range(3)]
    assert [one.transport.closed for one in waiting] == [False, False, True]
    await connected(broker, "elsewhere")

    waiting[0].receive(w.connect("b"))

    assert not FakeClient(broker, address="10.0.0.9").transport.closed
    assert broker.counters.refused.value("too_many_connections") == 1


async def test_before_authentication_no_more_than_a_connect_is_kept() -> None:
    broker = MqttBroker(BrokerSettings(max_connect_bytes=1000))
    client = FakeClient(broker)

    client.receive(b"\x10\xff\xff\x7f" + b"\x00" * 900)

    assert client.transport.closed
    assert client.connection.reader.pending_bytes == 0


async def test_a_flood_is_read_slower_and_nobody_else_is() -> None:
    clock = ManualClock()
    broker = MqttBroker(BrokerSettings(publishes_per_s=10, publishes_burst=5), clock=clock)
    flood, calm = await connected(broker, "flood"), await connected(broker, "calm")
    flood.receive(w.publish("x") * 25)
    calm.receive(w.publish("x") * 5)
    assert (flood.transport.reading, calm.transport.reading) == (False, True)

    clock.advance(2.1)
    broker.sessions.timers.run(clock.now_s())

    assert flood.transport.reading


async def test_a_client_that_outruns_its_acknowledgements_is_not_read() -> None:
    broker = MqttBroker(BrokerSettings(max_unacknowledged=3))
    kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    broker.add_sink("x", lambda messages: kept)
    client = await connected(broker)
    for number in range(1, 6):
        client.receive(w.publish("x", qos=1, pid=number))
    assert not client.transport.reading

    kept.set_result(None)

    assert await client.sent() == b"".join(w.puback(n) for n in range(1, 6))
    assert client.transport.reading


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_burst_that_was_acknowledged_at_once_leaves_the_client_being_read(qos: int) -> None:
    broker = MqttBroker(BrokerSettings(max_unacknowledged=3))
    client = await connected(broker)

    client.receive(b"".join(w.publish("x", qos=qos, pid=number) for number in range(1, 9)))

    assert client.transport.reading
    assert len(await client.sent()) == 8 * 4


async def test_retained_messages_beyond_the_quota_are_refused() -> None:
    broker = MqttBroker(BrokerSettings(retained_messages=1))
    client = await connected(broker, v=5)
    client.receive(w.publish("x", b"1", v=5, qos=1, pid=1, retain=True))
    client.receive(w.publish("y", b"1", v=5, qos=1, pid=2, retain=True))
    client.receive(w.publish("x", b"2", v=5, qos=1, pid=3, retain=True))
    assert await client.sent() == w.puback(1, 0x10) + w.puback(2, 0x97) + w.puback(3, 0x10)
    with pytest.raises(NotKept):
        await broker.publish("y", b"1", retain=True)


# --- disk


async def test_messages_wait_for_the_commit_before_they_are_acknowledged_or_delivered(db: Database) -> None:
    broker = MqttBroker(db=db)
    broker.start()
    kept = await connected(broker, "kept", clean=False)
    kept.receive(w.subscribe(1, ("x", 1)))
    await eventually(kept.sent)
    client = await connected(broker)
    commits = db.commits

    client.receive(w.publish("x", b"1", qos=1, pid=1))
    assert bytes(client.transport.sent) == b""

    assert await eventually(client.sent) == w.puback(1)
    assert db.commits > commits
    assert await kept.sent() == w.publish("x", b"1", qos=1, pid=1)
    await broker.close()


async def test_a_full_disk_acknowledges_nothing_and_recovers_by_itself(db: Database, tmp_path: Path) -> None:
    clock = ManualClock()
    broker = MqttBroker(db=db, clock=clock)
    broker.start()
    kept = await connected(broker, "kept", clean=False)
    kept.receive(w.subscribe(1, ("x", 1)))
    await eventually(kept.sent)
    client = await connected(broker, v=5)
    await db.tx(
        lambda tx: tx.execute(
            "CREATE TRIGGER full BEFORE INSERT ON mqtt_batches BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        ).close()
    )

    client.receive(w.publish("x", b"1", v=5, qos=1, pid=1))
    assert await eventually(client.sent) == w.puback(1, 0x97)
    assert await kept.sent() == b""

    await db.tx(lambda tx: tx.execute("DROP TRIGGER full").close())
    clock.advance(1.0)
    client.receive(w.publish("x", b"2", v=5, qos=1, pid=2))

    async def answered() -> bytes:
        clock.advance(0.3)
        return await client.sent()

    assert await eventually(answered) == w.puback(2)
    assert await kept.sent() == w.publish("x", b"2", qos=1, pid=2)
    assert broker.sessions.quota.used_bytes > 0
    kept.receive(w.puback(2))
    assert broker.sessions.quota.used_bytes == 0
    await broker.close()


async def test_acknowledged_messages_leave_the_disk(db: Database) -> None:
    broker = MqttBroker(db=db)
    broker.start()
    for cid in ("one", "two"):
        client = await connected(broker, cid, clean=False)
        client.receive(w.subscribe(1, ("x", 1)))
        await eventually(client.sent)
        if cid == "one":
            first = client
    for number in range(10):
        await broker.publish("x", b"%d" % number, 1)
    assert rows(db, "mqtt_batches") > 0

    for one in (first, client):
        one.receive(b"".join(w.puback(n) for n in (2, 1, *range(3, 11))))

    await eventually(lambda: rows(db, "mqtt_batches") == 0)
    assert rows(db, "mqtt_done") == 0
    await broker.close()


def rows(db: Database, table: str) -> int:
    def count(conn: sqlite3.Connection) -> int:
        return int(conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    return db.read(count)


async def test_an_ended_session_leaves_no_rows(db: Database) -> None:
    broker = MqttBroker(db=db)
    broker.start()
    kept = await connected(broker, "kept", clean=False, will=("w", b"x", 1, True))
    kept.receive(w.subscribe(1, ("x", 2)) + w.publish("x", b"1", qos=2, pid=7))
    await eventually(kept.sent)
    kept.receive(w.disconnect())
    await broker.publish("x", b"2", 1)

    await connected(broker, "kept", clean=True)

    tables = ("mqtt_sessions", "mqtt_subscriptions", "mqtt_batches", "mqtt_done", "mqtt_incoming", "mqtt_released")
    await eventually(lambda: sum(rows(db, table) for table in tables) == 0)
    await broker.close()


async def test_a_restart_keeps_sessions_wills_and_retained_messages(db: Database) -> None:
    clock = ManualClock()
    broker = MqttBroker(db=db, clock=clock)
    broker.start()
    kept = await connected(
        broker,
        "kept",
        v=5,
        clean=False,
        p=b"\x11\x00\x00\x10\x00",
        will=("w", b"late", 1, False),
        wp=b"\x18\x00\x00\x00\x05",
    )
    kept.receive(w.subscribe(1, ("x", 2), v=5) + w.publish("r", b"kept", v=5, qos=1, pid=1, retain=True))
    await eventually(kept.sent)
    await broker.publish("x", b"1", 1)

    again = LocalBroker(db=db, clock=clock)
    cloud = await again.connect("cloud")
    await cloud.subscribe("#")
    assert (await cloud.receive()).payload == b"kept"
    await asyncio.sleep(0)
    clock.advance(6.0)
    assert (await cloud.receive()).payload == b"late"
    back = await connected(again, "other")
    back.receive(w.connect("x"))
    client = FakeClient(again)
    client.receive(w.connect("kept", v=5, clean=False, p=b"\x11\x00\x00\x10\x00"))
    got = await eventually(client.sent)
    assert got[2] == 1
    assert got.endswith(w.publish("x", b"1", v=5, qos=1, pid=1, dup=True))
    await again.close()
    await broker.close()


# --- PORT Broker in process


async def test_local_connection_publishes_subscribes_and_acknowledges() -> None:
    broker = LocalBroker()
    cloud = await broker.connect("cloud")
    await cloud.subscribe("skerry/1/+/up")
    edge = await connected(broker, "edge")
    edge.receive(w.subscribe(1, ("skerry/1/edge/down", 1)))
    await edge.sent()

    edge.receive(w.publish("skerry/1/edge/up", b"hello", qos=1, pid=1))
    inbound = await cloud.receive()
    inbound.ack()
    await cloud.publish("skerry/1/edge/down", b"welcome")

    assert (inbound.topic, inbound.payload, inbound.retain) == ("skerry/1/edge/up", b"hello", False)
    assert await edge.sent() == w.puback(1) + w.publish("skerry/1/edge/down", b"welcome", qos=1, pid=1)
    assert broker.sessions.by_id["cloud"].waiting == 0
    await broker.close()


async def test_local_connection_leaves_its_will_only_when_taken_over() -> None:
    broker = LocalBroker()
    watcher = await broker.connect("watcher")
    await watcher.subscribe("w")
    first = await broker.connect("cloud", will=Will("w", b"gone", retain=False))

    second = await broker.connect("cloud")

    assert (await watcher.receive()).payload == b"gone"
    with pytest.raises(ConnectionLost):
        await first.receive()
    with pytest.raises(ConnectionLost):
        await first.publish("x", b"")
    await second.close()
    await broker.close()
    with pytest.raises(ConnectionLost):
        await watcher.receive()
    with pytest.raises(Unreachable):
        await broker.connect("late")


async def test_nobody_keeps_this_process_from_its_own_broker() -> None:
    broker = LocalBroker()
    squatter = await connected(broker, "cloud", clean=False)

    cloud = await broker.connect("cloud")

    assert squatter.transport.closed
    await cloud.publish("x", b"1")
    await broker.close()


async def test_kick_ends_a_connection_and_publishes_its_will() -> None:
    broker = LocalBroker()
    watcher = await broker.connect("watcher")
    await watcher.subscribe("w")
    client = await connected(broker, v=5, will=("w", b"gone", 0, False))

    assert broker.kick("a")

    assert await client.sent() == b"\xe0\x01\x98"
    assert (await watcher.receive()).payload == b"gone"
    assert not broker.kick("a")
    await broker.close()


async def test_counters_name_every_drop_and_refusal() -> None:
    broker = MqttBroker(acl=lambda identity, verb, topic: False)
    client = await connected(broker)
    client.receive(w.publish("x") + w.subscribe(1, ("x", 0)))
    await client.sent()
    broker.counters.flush()

    text = broker.counters.metrics.render()

    assert 'skerry_mqtt_refused_total{reason="publish_0x87"} 1' in text
    assert 'skerry_mqtt_refused_total{reason="subscribe_0x87"} 1' in text
    assert 'skerry_mqtt_messages_received_total{qos="0"} 1' in text
    assert "skerry_mqtt_connections 1" in text


async def test_a_device_report_to_a_sink_and_a_few_subscribers_costs_little() -> None:
    broker = MqttBroker()
    taken: list[int] = []

    def sink(messages: list[Publish]) -> None:
        taken.append(len(messages))

    broker.add_sink("$hw/events/device/+/twin/update", sink)
    watchers = [await connected(broker, f"w{n}") for n in range(3)]
    for watcher in watchers:
        watcher.receive(w.subscribe(1, ("$hw/events/#", 0)))
    device = await connected(broker, "device")
    reports = b"".join(w.publish("$hw/events/device/kiln/twin/update", b"x" * 300, qos=1, pid=n) for n in range(1, 21))

    costs_us = []
    for _ in range(50):
        started_s = time.thread_time()
        device.receive(reports)
        await device.sent()
        costs_us.append((time.thread_time() - started_s) / 20 * 1e6)

    assert min(costs_us) < 50
    assert sum(taken) == 1000


async def test_a_connect_that_cannot_be_kept_is_refused_and_leaves_no_will(db: Database) -> None:
    broker = LocalBroker(db=db)
    watcher = await broker.connect("watcher")
    await watcher.subscribe("w", 0)
    await db.tx(
        lambda tx: tx.execute(
            "CREATE TRIGGER full BEFORE INSERT ON mqtt_sessions BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        ).close()
    )
    client = FakeClient(broker)

    client.receive(w.connect("a", clean=False, will=("w", b"gone", 0, False)))

    assert await eventually(client.sent) == b"\x20\x02\x00\x03"
    await broker.publish("w", b"only this")
    assert (await watcher.receive()).payload == b"only this"
    await broker.close()


async def test_many_retained_messages_are_sent_in_portions_and_never_stale() -> None:
    broker = MqttBroker()
    for number in range(500):
        broker.publish(f"t/{number}", b"old", retain=True)
    client = await connected(broker)

    client.receive(w.subscribe(1, ("t/#", 0)))
    broker.publish("t/0", b"new", retain=True)  # among the last to be sent
    sent = await client.sent()

    assert sent.count(b"old") == 499
    assert sent.count(b"new") == 2

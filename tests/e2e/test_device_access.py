"""Who may speak to devices' broker: passwords and an ACL off loopback, or an external Mosquitto by URL."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from cloudcore.certs import Authority
from proto.kit.clock import SystemClock
from tests.e2e.conftest import LoneEdge
from tests.e2e.test_edge_alone_keeps_devices import ask, seed
from tests.kit.devices import oven, report_body
from tests.kit.ports import free_port
from tests.kit.wait import eventually

UPDATE = "$hw/events/device/kiln/twin/update"


@pytest.fixture
async def seeded(lone_edge: LoneEdge) -> LoneEdge:
    kiln = oven(target="900")
    kiln["metadata"] |= {"uid": "u1", "generation": 1}
    await seed(lone_edge, kiln)
    return lone_edge


@pytest.fixture
async def guarded(seeded: LoneEdge, tmp_path: Path) -> LoneEdge:
    """An edge whose device broker listens everywhere and knows two devices by password."""
    passwords = tmp_path / "passwd"
    for flags, user in (["-c", "-b"], "kiln"), (["-b"], "oven"):
        process = await asyncio.create_subprocess_exec("mosquitto_passwd", *flags, str(passwords), user, "secret")
        assert await process.wait() == 0
    seeded.daemon.argv += ["--set", "device_broker.host=0.0.0.0", "--set", f"device_broker.password_file={passwords}"]
    await seeded.daemon.start()
    return seeded


async def test_off_loopback_nobody_is_anonymous(guarded: LoneEdge) -> None:
    for user, password in [(None, None), ("kiln", "wrong"), ("nobody", "secret")]:
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", guarded.mqtt_port, username=user, password=password):
                pass


async def test_a_device_has_its_own_topics_only(guarded: LoneEdge) -> None:
    async with aiomqtt.Client("127.0.0.1", guarded.mqtt_port, username="kiln", password="secret") as kiln:
        answer = await ask(kiln, "update", {"event_id": "1", "twin": {"temperature": {"actual": {"value": "42"}}}})
        assert answer["event_id"] == "1"
    where = ("127.0.0.1", guarded.mqtt_port)
    async with aiomqtt.Client(*where, username="oven", password="secret", protocol=aiomqtt.ProtocolVersion.V5) as oven:
        refused = await oven.subscribe("$hw/events/device/+/twin/update/delta", qos=1)
        assert refused[0].is_failure  # type: ignore[union-attr]
        await oven.publish(UPDATE, report_body(temperature="13"), qos=1)
    async with aiomqtt.Client(*where, username="kiln", password="secret") as kiln:
        found = await ask(kiln, "get", {"event_id": "2"})
    assert found["twin"]["temperature"]["actual"]["value"] == "42"


async def test_a_device_certificate_is_its_name(seeded: LoneEdge, tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path / "device-ca", SystemClock())
    server, kiln = authority.server_certificate(), authority.client_certificate("kiln", "kiln", ())
    keys = {"tls_cert": server.cert, "tls_key": server.key, "tls_ca": authority.ca_file, "host": "0.0.0.0"}
    seeded.daemon.argv += [word for key, value in keys.items() for word in ("--set", f"device_broker.{key}={value}")]
    await seeded.daemon.start()
    assert seeded.daemon.addresses["mqtt"] == f"mqtts://0.0.0.0:{seeded.mqtt_port}"
    trust = ssl.create_default_context(cafile=str(authority.ca_file))

    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", seeded.mqtt_port, tls_context=trust, timeout=2):
            pass
    trust.load_cert_chain(kiln.cert, kiln.key)
    async with aiomqtt.Client("127.0.0.1", seeded.mqtt_port, tls_context=trust) as client:
        answer = await ask(client, "update", {"event_id": "1", "twin": {"temperature": {"actual": {"value": "42"}}}})
    assert answer["event_id"] == "1"


def served_serial(port: int, trust: ssl.SSLContext) -> str:
    """The certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return str((tls.getpeercert() or {})["serialNumber"])


async def test_the_device_broker_takes_a_renewed_certificate_while_running(seeded: LoneEdge, tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path / "device-ca", SystemClock())
    server = authority.server_certificate()
    keys = {"tls_cert": server.cert, "tls_key": server.key}
    seeded.daemon.argv += [word for key, value in keys.items() for word in ("--set", f"device_broker.{key}={value}")]
    await seeded.daemon.start()
    trust = ssl.create_default_context(cafile=str(authority.ca_file))
    first = served_serial(seeded.mqtt_port, trust)
    async with aiomqtt.Client("127.0.0.1", seeded.mqtt_port, tls_context=trust) as client:
        authority.server_certificate(["renamed.example"])
        await eventually(lambda: served_serial(seeded.mqtt_port, trust) != first, 20)
        answer = await ask(client, "update", {"event_id": "1", "twin": {"temperature": {"actual": {"value": "42"}}}})
    assert answer["event_id"] == "1"


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[int]:
    port = free_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", str(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield port
    process.terminate()
    await process.wait()


async def test_an_external_mosquitto_serves_the_same_devices(seeded: LoneEdge, mosquitto: int) -> None:
    seeded.daemon.argv += ["--set", f"device_broker.url=mqtt://127.0.0.1:{mosquitto}"]
    await seeded.daemon.start()
    assert seeded.daemon.addresses["mqtt"] == f"mqtt://127.0.0.1:{mosquitto}"
    await eventually(lambda: "device broker connected" in seeded.daemon.log.read_text())

    async with aiomqtt.Client("127.0.0.1", mosquitto) as client:
        answer = await ask(client, "update", {"event_id": "1", "twin": {"temperature": {"actual": {"value": "42"}}}})
        assert answer["event_id"] == "1"
        found = await ask(client, "get", {"event_id": "2"})

    assert found["twin"]["temperature"]["actual"]["value"] == "42"


async def test_an_external_mosquitto_keeps_what_devices_say_while_the_gateway_is_down(
    seeded: LoneEdge, mosquitto: int
) -> None:
    seeded.daemon.argv += ["--set", f"device_broker.url=mqtt://127.0.0.1:{mosquitto}"]
    await seeded.daemon.start()
    await eventually(lambda: "device broker connected" in seeded.daemon.log.read_text())
    await seeded.daemon.kill()
    async with aiomqtt.Client("127.0.0.1", mosquitto) as client:
        await client.publish(UPDATE, b'{"event_id":"1","twin":{"temperature":{"actual":{"value":"43"}}}}', qos=1)

    await seeded.daemon.start()

    async with aiomqtt.Client("127.0.0.1", mosquitto) as client:

        async def told() -> bool:
            twin = (await ask(client, "get", {"event_id": "2"}))["twin"]
            return bool(twin["temperature"].get("actual", {}).get("value") == "43")

        await eventually(told, 20)


async def test_an_external_broker_that_is_away_is_waited_for(seeded: LoneEdge) -> None:
    seeded.daemon.argv += ["--set", f"device_broker.url=mqtt://127.0.0.1:{free_port()}"]
    await seeded.daemon.start()

    await eventually(lambda: "device broker lost" in seeded.daemon.log.read_text())
    assert seeded.daemon.running

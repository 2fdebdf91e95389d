"""Certificates change under running daemons: reports go on, and none is lost or stored twice."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cloudcore.certs import Authority
from edgecore.data_dir import DataDir
from proto.kit.clock import SystemClock
from proto.kit.tls import client_context
from proto.kit.x509 import Facts, read_file
from tests.kit.devices import MODEL, oven, report
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

CLOCK = SystemClock()
LIFE_S = 12.0  # renewed after some nine


@pytest.fixture
async def brief(tmp_path: Path) -> AsyncIterator[Platform]:
    """A cloud whose nodes' certificates last seconds."""
    async with Platform(tmp_path, cloud_sets=(f"join.node_days={LIFE_S / 86400}",)) as platform:
        await platform.start_cloud()
        yield platform


async def has_device(edge: Edge) -> bool:
    return bool((await edge.status())["devices"]["total"])


async def stored(platform: Platform) -> list[str]:
    """The temperatures in the cloud's history, oldest first."""
    out = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    return [row["value"] for row in msgspec.json.decode(out)]


async def test_a_node_renews_while_running_and_its_link_goes_on_with_the_new_certificate(brief: Platform) -> None:
    edge = await brief.add_edge("gw-1")
    await brief.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))
    first = read_file(DataDir(edge.data_dir).certificate)
    sent: list[str] = []

    async def ended() -> bool:
        sent.append(str(len(sent)))
        await report(edge.mqtt_port, temperature=sent[-1])
        return CLOCK.wall() > first.not_after

    await eventually(ended, 3 * LIFE_S)
    assert read_file(DataDir(edge.data_dir).certificate).not_after > CLOCK.wall()
    edge.cut()  # what comes back can only come back with the new certificate
    edge.mend()
    await edge.connected()
    await edge.drained()

    assert await stored(brief) == sent
    assert 'skerry_edge_renewals_total{result="renewed"}' in await edge.metrics()


def shown(port: int, trust: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection to ``port`` is shown."""
    with socket.create_connection(("127.0.0.1", port), 5) as plain, trust.wrap_socket(plain) as tls:
        return str((tls.getpeercert() or {})["serialNumber"])


async def test_every_listener_of_the_cloud_takes_a_renewed_certificate_and_drops_nobody(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    epoch = (await edge.status())["link"]["epoch"]
    authority = Authority.open_or_create(platform.cloud_dir / "pki", CLOCK)
    pair = authority.client_certificate("admin", "skerry-admin")
    trust = client_context(pair.cert, pair.key, authority.ca_file)
    ports = (platform.api_port, platform.broker_port, platform.join_port)
    old: Facts = read_file(platform.cloud_dir / "pki" / "server.crt")

    authority.server_certificate(["renamed.example"])
    new = read_file(platform.cloud_dir / "pki" / "server.crt")

    async def seen() -> set[str]:
        return {await asyncio.to_thread(shown, port, trust) for port in ports}

    async def all_new() -> bool:
        return await seen() == {new.serial}

    assert old.serial != new.serial
    await eventually(all_new, 20)
    assert (await edge.status())["link"]["connected"]
    assert (await edge.status())["link"]["epoch"] == epoch

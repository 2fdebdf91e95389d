"""A copied disk, a revoked node: the edge lives on, and people are told what it is and what to type."""

import shutil
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cloudcore import tokens
from cloudcore.certs import Authority
from cloudcore.sql import Sql
from edgecore.data_dir import DataDir
from proto.kit.clock import SystemClock
from tests.kit.devices import MODEL, oven, report
from tests.kit.kube import DEVICES
from tests.kit.platform import CommandFailed, Edge, Platform, command
from tests.kit.wait import eventually


async def doctor(edge: Edge) -> dict[str, dict[str, Any]]:
    """The checks by name."""
    text = await command("edgecore", "doctor", "--data-dir", str(edge.data_dir), "-o", "json", check=False)
    return {check["name"]: check for check in msgspec.json.decode(text)["checks"]}


async def fenced(edge: Edge) -> bool:
    return bool((await edge.status()).get("link", {}).get("fenced"))


async def test_an_old_copy_of_a_disk_is_fenced_and_joins_again_without_losing_reports(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: _held(edge, 1))
    await edge.stop()
    shutil.copytree(edge.data_dir, edge.data_dir.with_name("copy"), ignore=shutil.ignore_patterns("*.sock"))
    await edge.start()
    await edge.connected()
    await edge.drained()
    await edge.stop()
    shutil.rmtree(edge.data_dir)
    edge.data_dir.with_name("copy").rename(edge.data_dir)

    await edge.start()
    await eventually(lambda: fenced(edge))
    await report(edge.mqtt_port, temperature="77")
    assert (await doctor(edge))["fenced"]["next"].startswith("edgecore reset --keep-data")

    await edge.stop()
    await command("edgecore", "reset", "--yes", "--keep-data", "--data-dir", str(edge.data_dir))
    await edge.prepare()
    await edge.start()
    await edge.connected()
    await edge.drained()
    status = await platform.kube.get(f"{DEVICES}/namespaces/default/devicestatuses/kiln")
    assert status["status"]["twins"][0]["reported"]["value"] == "77"


async def test_a_revoked_node_is_told_so_and_serves_its_devices(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: _held(edge, 1))
    await command("cloudcore", "node", "revoke", "gw-1", "--data-dir", str(platform.cloud_dir))

    async def out() -> bool:
        link = (await edge.status())["link"]
        return not link["connected"] and bool(link["last_error"])

    await eventually(out, 20)
    await report(edge.mqtt_port, temperature="1")
    assert "revoked" in (await doctor(edge))["MQTT"]["message"]


async def refusal(platform: Platform, token: str, node: str) -> str:
    """What ``edgecore join`` says when it fails; nothing of an identity may be left."""
    where = f"https://127.0.0.1:{platform.join_port}"
    data_dir = platform.path / "refused"
    join = ("edgecore", "join", "--cloud", where, "--token", token, "--node", node, "--data-dir", str(data_dir))
    with pytest.raises(CommandFailed, match="ended with 1") as failed:
        await command(*join)
    assert not DataDir(data_dir).joined()
    return str(failed.value)


async def test_a_token_that_is_used_deleted_or_expired_lets_nobody_in(platform: Platform) -> None:
    used = await platform.token()
    first = platform.edges["gw-1"] = Edge(platform, "gw-1")
    await first.prepare(used)
    assert "this token was used already" in await refusal(platform, used, "gw-2")

    deleted = await platform.token()
    await command("cloudcore", "token", "delete", deleted, "--data-dir", str(platform.cloud_dir))
    assert "this token is not known here" in await refusal(platform, deleted, "gw-2")

    sql = Sql.open(f"sqlite:///{platform.cloud_dir / 'cloud.db'}")
    authority = Authority.open_or_create(platform.cloud_dir / "pki", SystemClock())
    long_ago = SystemClock().wall() - timedelta(hours=2)
    expired = await sql.tx(lambda c: tokens.create(c, ca_hash=authority.ca_hash, now=long_ago, ttl_s=3600))
    await sql.close()
    assert "this token expired at" in await refusal(platform, expired, "gw-2")


async def test_a_wiped_gateway_joins_again_and_gets_everything_back(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven(target="500"))
    await eventually(lambda: _held(edge, 1))
    await report(edge.mqtt_port, temperature="77")
    await edge.drained()
    await edge.kill()
    shutil.rmtree(edge.data_dir)

    await edge.prepare()
    await edge.start()
    await edge.connected()
    await eventually(lambda: _held(edge, 1))
    await report(edge.mqtt_port, temperature="78")
    await edge.drained()

    async def shown() -> bool:
        status = await platform.kube.get(f"{DEVICES}/namespaces/default/devicestatuses/kiln")
        twins = {twin["propertyName"]: twin for twin in status["status"]["twins"]}
        return bool(twins["temperature"]["reported"]["value"] == "78" and "observedDesired" in twins["target"])

    await eventually(shown)
    history = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    assert [row["value"] for row in msgspec.json.decode(history)] == ["77", "78"]


async def _held(edge: Edge, count: int) -> bool:
    return bool((await edge.status()).get("devices", {}).get("total") == count)

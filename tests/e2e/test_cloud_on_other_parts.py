"""cloudcore where users outgrow one machine: somebody else's Kubernetes API, Mosquitto over mutual TLS, PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import yaml

from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.resources import Kind
from tests.kit.cloud import bare_api
from tests.kit.devices import MODEL, oven, report
from tests.kit.kube import DEVICES, Kube
from tests.kit.mosquitto import BINARY
from tests.kit.platform import Edge, Platform, command
from tests.kit.postgres import Postgres, postgres
from tests.kit.wait import eventually

DOCS = Path(__file__).parents[2] / "docs" / "cloudcore.md"
KILN = f"{DEVICES}/namespaces/default/devices/kiln"
STATUS = f"{DEVICES}/namespaces/default/devicestatuses/kiln"


@asynccontextmanager
async def guarded_mosquitto(cloud_dir: Path, out: Path, port: int, database: str) -> AsyncIterator[None]:
    """Mosquitto with the rights that cloudcore writes for it, kept true while nodes join and leave."""
    await asyncio.to_thread(out.mkdir)
    words = ["-m", "cloudcore.broker_files", str(cloud_dir), str(out), "--port", str(port), "--database", database]
    watch = await asyncio.create_subprocess_exec(sys.executable, *words, "--watch", stderr=subprocess.DEVNULL)
    config = out / "mosquitto.conf"
    await eventually(config.exists)
    config.write_text(config.read_text() + "user root\n")
    with (out / "log").open("wb") as log:
        broker = await asyncio.create_subprocess_exec(BINARY, "-c", str(config), stderr=log, stdout=log)
    try:
        yield
    finally:
        for process in (watch, broker):
            process.kill()
            await process.wait()


async def grant_documented_rights(kubeconfig: Path) -> None:
    """Create what docs/cloudcore.md gives to cloudcore: more is never needed."""
    text = DOCS.read_text().split("```yaml rbac\n")[1].split("```")[0]
    client = KubeClient(config.load(kubeconfig))
    for document in yaml.safe_load_all(text):
        group, version = document["apiVersion"].split("/")
        plural = document["kind"].lower() + "s"
        await client.create(Kind(group, version, plural, document["kind"], namespaced=False), "", document)
    await client.close()


@pytest.fixture
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
async def platform(tmp_path: Path, server: Postgres) -> AsyncIterator[Platform]:
    """Nothing embedded: a bare API where cloudcore has the documented rights, Mosquitto, PostgreSQL."""
    database = server.url()
    async with bare_api(tmp_path / "cluster") as kubeconfig, Platform(tmp_path) as made:
        made.cloud_dir.mkdir(mode=0o700)
        settings = {
            "api": {"kubeconfig": str(kubeconfig.with_name("plain.kubeconfig"))},
            "history": {"database": database},
            "broker": {"url": f"mqtts://127.0.0.1:{made.broker_port}"},
        }
        (made.cloud_dir / "cloud.yaml").write_bytes(msgspec.yaml.encode(settings))
        made._kube = Kube(kubeconfig)
        out = tmp_path / "mosquitto"
        async with guarded_mosquitto(made.cloud_dir, out, made.broker_port, database):
            where = ("--kubeconfig", str(kubeconfig), "--data-dir", str(made.cloud_dir))
            await command("cloudcore", "crds", "apply", *where)
            await grant_documented_rights(kubeconfig)
            await made.start_cloud()
            yield made


async def has_device(edge: Edge) -> bool:
    return bool((await edge.status())["devices"]["total"])


async def reported(platform: Platform) -> str:
    status = (await platform.kube.find(STATUS) or {}).get("status") or {}
    return next((str(t["reported"]["value"]) for t in status.get("twins", []) if "reported" in t), "")


async def test_a_twin_works_and_history_is_in_postgresql(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))

    await report(edge.mqtt_port, temperature="812")

    async def arrived() -> bool:
        return await reported(platform) == "812"

    await eventually(arrived)
    out = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    assert [row["value"] for row in msgspec.json.decode(out)] == ["812"]
    nodes = await platform.kube.list("/api/v1/nodes")
    assert [node["metadata"]["name"] for node in nodes] == ["gw-1"]
    log = await asyncio.to_thread(platform.cloud.log.read_text)
    assert "forbidden" not in log.lower()


async def test_the_doctor_finds_every_part_well(platform: Platform) -> None:
    out = await command("cloudcore", "doctor", "-o", "json", "--data-dir", str(platform.cloud_dir))

    found = {check["name"]: check["level"] for check in msgspec.json.decode(out)["checks"]}
    assert {found[name] for name in ("PostgreSQL", "API server", "definitions", "broker", "daemon")} == {"OK"}


async def test_a_killed_cloud_goes_on_where_it_was(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))
    await report(edge.mqtt_port, temperature="1")

    await platform.kill_cloud()
    for value in ("2", "3", "4"):
        await report(edge.mqtt_port, temperature=value)
    await platform.start_cloud()
    await edge.connected()
    await edge.drained()

    out = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    assert [row["value"] for row in msgspec.json.decode(out)] == ["1", "2", "3", "4"]
    assert await reported(platform) == "4"


async def test_postgresql_that_goes_away_and_comes_back_loses_nothing(platform: Platform, server: Postgres) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))
    await report(edge.mqtt_port, temperature="1")
    await edge.drained()

    await asyncio.to_thread(server.stop)
    for value in ("2", "3"):
        await report(edge.mqtt_port, temperature=value)

    async def arrived() -> bool:
        return await reported(platform) == "3"

    await eventually(arrived)  # the present state needs no database
    await asyncio.to_thread(server.start)
    await edge.drained(30)

    out = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    assert [row["value"] for row in msgspec.json.decode(out)] == ["1", "2", "3"]
    assert platform.cloud.running

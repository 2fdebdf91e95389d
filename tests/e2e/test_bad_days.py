"""Bad days on real processes: the doctor names what is wrong with the next command to type, the daemon says one sentence,
nothing is deleted, and when the trouble ends the same command works."""

import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudcore.certs import Authority
from proto.kit.clock import SystemClock
from tests.kit.command import Said, failed, say
from tests.kit.disk import SmallDisk
from tests.kit.platform import Edge, Platform
from tests.kit.ports import free_port
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A cloud that serves, and an edge that has joined and does not run."""
    async with Platform(tmp_path_factory.mktemp("platform")) as platform:
        await platform.start_cloud()
        await platform.add_edge("gw-1", start=False)
        yield platform


@pytest.fixture
def edge(platform: Platform, tmp_path: Path) -> Iterator[Edge]:
    """That edge with a data directory of this test's own."""
    edge = platform.edges["gw-1"]
    kept, edge.data_dir = edge.data_dir, tmp_path / "gw-1"
    shutil.copytree(kept, edge.data_dir)
    yield edge
    edge.data_dir = kept


def sets(edge: Edge, **more: str) -> list[str]:
    """Flags that keep every command of this edge on its own ports."""
    own = {"cloud.broker": f"mqtts://127.0.0.1:{edge.relay.port}", "device_broker.port": str(edge.mqtt_port)}
    both = {**own, "api.port": str(edge.api_port), **{key.replace("__", "."): value for key, value in more.items()}}
    return [word for key, value in both.items() for word in ("--set", f"{key}={value}")]


async def ask(edge: Edge, verb: str, *flags: str, **env: str) -> Said:
    return await say("edgecore", verb, "--data-dir", str(edge.data_dir), *flags, env=env)


async def diagnosis(edge: Edge, *flags: str, **env: str) -> dict[str, dict[str, Any]]:
    """What the doctor found wrong, by the name of the check; its exit code says the same."""
    return wrong(await ask(edge, "doctor", "-o", "json", *(flags or sets(edge)), **env))


def wrong(said: Said) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in said.err, said
    found = {check["name"]: check for check in said.json()["checks"] if check["level"] == "Error"}
    assert said.code == (1 if found else 0), said
    assert all(check["next"] for check in found.values()), found
    return found


def spoil(file: Path) -> bytes:
    """Flip bytes all over a database; returns what it was."""
    whole = file.read_bytes()
    damaged = bytearray(whole)
    for at in range(0, len(damaged), 64):
        damaged[at] ^= 0xFF
    file.write_bytes(damaged)
    return whole


@contextmanager
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield int(sock.getsockname()[1])


async def test_a_healthy_edge_has_nothing_wrong(edge: Edge) -> None:
    assert await diagnosis(edge) == {}


async def test_another_ca_is_named(edge: Edge, tmp_path: Path) -> None:
    own = (edge.data_dir / "pki" / "ca.crt").read_bytes()
    other = Authority.open_or_create(tmp_path / "other", SystemClock())
    (edge.data_dir / "pki" / "ca.crt").write_bytes(other.ca_pem)
    found = await diagnosis(edge)
    (edge.data_dir / "pki" / "ca.crt").write_bytes(own)

    assert "do not fit together" in found["CA"]["message"]
    assert "another CA" in found["TLS"]["message"]
    assert await diagnosis(edge) == {}


def faketime() -> str:
    """The library that lies about the time of day; deploy/parts.sh installs it."""
    return next(path for path in FAKETIME if Path(path).exists())


@pytest.mark.parametrize(("offset", "words"), [("-400d", "the clock is behind"), ("+400d", "expired")])
async def test_a_wrong_clock_is_named_and_join_refuses(
    platform: Platform, edge: Edge, tmp_path: Path, offset: str, words: str
) -> None:
    fake = {"LD_PRELOAD": faketime(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    found = await diagnosis(edge, **fake)
    token = await platform.token("gw-9")
    cloud = f"https://127.0.0.1:{platform.join_port}"
    join = ("edgecore", "join", "--cloud", cloud, "--token", token, "--node", "gw-9", "--data-dir", str(tmp_path / "n"))
    refused = await say(*join, env=fake)

    assert any(words in check["message"] for check in found.values()), found
    assert any("timedatectl" in check["next"] or "join" in check["next"] for check in found.values()), found
    failed(refused, 1, "timedatectl set-ntp true")
    assert (await say(*join)).code == 0


@pytest.mark.parametrize("verb", ["doctor", "run"])
async def test_a_name_that_does_not_resolve_is_named_and_waited_for(edge: Edge, verb: str) -> None:
    flags = sets(edge, cloud__broker="mqtts://cloud.invalid:8883")
    if verb == "doctor":
        found = await diagnosis(edge, *flags)
        assert "cloud.invalid cannot be resolved" in found["DNS"]["message"]
        assert "getent hosts cloud.invalid" in found["DNS"]["next"]
        return
    daemon = edge.process
    daemon.argv = [*daemon.argv[:3], "run", "--data-dir", str(edge.data_dir), *flags]
    await daemon.start()
    try:
        assert (await edge.status())["link"]["connected"] is False
        assert "Traceback" not in daemon.tail(500)
    finally:
        assert await daemon.stop() == 0
        edge.daemon = None


async def test_a_broker_that_refuses_connections_is_named(edge: Edge) -> None:
    found = await diagnosis(edge, *sets(edge, cloud__broker="mqtts://127.0.0.1:1"))

    assert "127.0.0.1:1" in found["TCP"]["message"]
    assert "nc -vz 127.0.0.1 1" in found["TCP"]["next"]


@pytest.mark.parametrize("key", ["api.port", "device_broker.port"])
async def test_a_taken_port_of_the_edge_is_named(edge: Edge, key: str) -> None:
    with taken() as port:
        flags = sets(edge, **{key.replace(".", "__"): str(port)})
        found = await diagnosis(edge, *flags)
        run = await ask(edge, "run", *flags)

    assert any(f"127.0.0.1:{port}: it is taken by another process" in check["message"] for check in found.values()), (
        found
    )
    failed(run, 1, str(port))
    assert await diagnosis(edge, *flags) == {}


async def test_a_damaged_edge_database_is_named_and_kept(edge: Edge) -> None:
    await starts(edge)
    database = edge.data_dir / "edge.db"
    whole = spoil(database)
    damaged = database.read_bytes()
    found = await diagnosis(edge)
    run = await ask(edge, "run", *sets(edge))

    assert "damaged" in found["database"]["message"]
    assert "edgecore reset" in found["database"]["next"]
    failed(run, 1, "damaged")
    assert database.read_bytes() == damaged
    database.write_bytes(whole)
    await starts(edge)


async def starts(edge: Edge) -> None:
    """The daemon becomes ready and ends when asked."""
    edge.daemon = None
    await edge.start()
    assert await edge.stop() == 0
    edge.daemon = None


async def test_a_full_disk_is_named_and_passes(edge: Edge, tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", size_mib=48)
    await disk.mount()
    try:
        kept, edge.data_dir = edge.data_dir, disk.path / "gw-1"
        shutil.copytree(kept, edge.data_dir)
        disk.fill()
        found = await diagnosis(edge)
        run = await ask(edge, "run", *sets(edge))
        disk.free()

        assert "nothing more can be acknowledged" in found["disk space"]["message"]
        failed(run, 1, "no space left")
        await starts(edge)
    finally:
        await disk.unmount()


class Cloud:
    """A cloudcore of a test's own, on free ports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.platform = Platform(path)

    @property
    def flags(self) -> list[str]:
        return self.platform.cloud.argv[4:]

    async def starts(self) -> None:
        await self.platform.start_cloud()
        assert await self.platform.stop_cloud() == 0

    async def serve(self, *more: str) -> Said:
        """Serve, as far as it comes."""
        return await say("cloudcore", "serve", *self.flags, *more)

    async def diagnosis(self, *more: str) -> dict[str, dict[str, Any]]:
        return wrong(await say("cloudcore", "doctor", "-o", "json", *self.flags, *more))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a cloud that served once."""
    cloud = Cloud(tmp_path_factory.mktemp("made"))
    await cloud.starts()
    return cloud.platform.cloud_dir


@pytest.fixture
def cloud(made: Path, tmp_path: Path) -> Cloud:
    cloud = Cloud(tmp_path)
    shutil.copytree(made, cloud.platform.cloud_dir)
    return cloud


@pytest.mark.parametrize("name", ["cloud.db", "kube.db", "broker.db"])
async def test_a_damaged_cloud_database_is_named_and_kept(cloud: Cloud, name: str) -> None:
    database = cloud.platform.cloud_dir / name
    whole = spoil(database)
    damaged = database.read_bytes()
    found = await cloud.diagnosis()
    served = await cloud.serve()

    assert name in found[f"database {name}"]["message"]
    assert "cloudcore restore FILE" in found[f"database {name}"]["next"]
    failed(served, 1, name)
    assert database.read_bytes() == damaged
    database.write_bytes(whole)
    assert await cloud.diagnosis() == {}


@pytest.mark.parametrize("part", ["api", "broker", "join", "admin"])
async def test_a_taken_port_of_the_cloud_is_named(cloud: Cloud, part: str) -> None:
    with taken() as port:
        flags = ("--set", f"{part}.host=127.0.0.1", "--set", f"{part}.port={port}")
        found = await cloud.diagnosis(*flags)
        served = await cloud.serve(*flags)

    assert f"{part} cannot listen on 127.0.0.1:{port}" in found[f"port {port}"]["message"]
    failed(served, 1, f"use --set {part}.port=PORT")


async def test_postgresql_that_is_away_is_named(cloud: Cloud) -> None:
    flags = ("--database", f"postgresql+psycopg://skerry@127.0.0.1:{free_port()}/skerry")
    found = await cloud.diagnosis(*flags)
    served = await cloud.serve(*flags)

    assert "cannot be reached" in found["PostgreSQL"]["message"]
    assert "psql" in found["PostgreSQL"]["next"]
    failed(served, 1, "onnection")
    assert await cloud.diagnosis() == {}


async def test_a_foreign_broker_that_is_away_is_named(cloud: Cloud) -> None:
    found = await cloud.diagnosis("--broker", f"mqtts://127.0.0.1:{free_port()}")

    assert "127.0.0.1" in found["broker"]["message"]


async def test_a_full_disk_of_the_cloud_is_named_and_passes(cloud: Cloud, tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", size_mib=80)
    await disk.mount()
    try:
        small = Cloud(disk.path)
        shutil.copytree(cloud.platform.cloud_dir, small.platform.cloud_dir)
        disk.fill()
        small.platform.cloud.log = tmp_path / "small.log"
        found = await small.diagnosis()
        served = await small.serve()
        disk.free()

        assert "nothing more can be acknowledged" in found["disk space"]["message"]
        failed(served, 1, "no space left")
        await small.starts()
    finally:
        await disk.unmount()


async def test_a_node_that_was_copied_and_runs_twice_is_fenced(platform: Platform) -> None:
    original = await platform.add_edge("gw-2")
    copy = Edge(platform, "gw-2-copy")
    shutil.copytree(original.data_dir, copy.data_dir, ignore=shutil.ignore_patterns("*.sock"))
    (copy.data_dir / "edgecore.lock").unlink()
    await copy.relay.start()
    try:
        await copy.start()

        async def one_is_fenced() -> bool:
            return [bool((await each.status())["link"]["fenced"]) for each in (original, copy)].count(True) == 1

        await eventually(one_is_fenced, 25)
        fenced, right = (copy, original) if (await copy.status())["link"]["fenced"] else (original, copy)
        await right.connected()
        assert "another machine uses this node's identity" in (await diagnosis(fenced))["fenced"]["message"]
        told = await say("edgecore", "status", "--data-dir", str(fenced.data_dir))
        assert "FENCED" in told.out

        async def event() -> bool:
            events = await platform.kube.list("/api/v1/events")
            return any("copy" in e["message"] and e["involvedObject"]["name"] == "gw-2" for e in events)

        await eventually(event, 25)
    finally:
        await copy.close()
        await original.stop()


@pytest.mark.parametrize(("offset", "check"), [("-400d", "clock"), ("+5000d", "certificate ca")])
async def test_a_cloud_whose_clock_is_wrong_says_so_and_changes_nothing(cloud: Cloud, offset: str, check: str) -> None:
    fake = {"LD_PRELOAD": faketime(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    certificates = [file.read_bytes() for file in sorted((cloud.platform.cloud_dir / "pki").glob("*.crt"))]
    found = wrong(await say("cloudcore", "doctor", "-o", "json", *cloud.flags, env=fake))
    served = await say("cloudcore", "serve", *cloud.flags, env=fake)

    assert check in found
    failed(served, 1, "timedatectl set-ntp true")
    assert certificates == [file.read_bytes() for file in sorted((cloud.platform.cloud_dir / "pki").glob("*.crt"))]
    await cloud.starts()

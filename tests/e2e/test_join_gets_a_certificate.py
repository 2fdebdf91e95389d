"""A machine joins over real TLS: identity and settings on disk, repeatable, and one clear sentence for every refusal."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import uvloop
import yaml

from cloudcore import revocation
from cloudcore.certs import Authority
from cloudcore.join import JoinSettings
from edgecore import settings as edge_settings
from edgecore.data_dir import DataDir
from edgecore.enrol import CloudRefused, finish_swap, next_key
from edgecore.join import PreflightFailed, join
from edgecore.renewal import Renewal
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.errors import Retryable, Terminal, UsageError
from proto.kit.metrics import Metrics
from proto.kit.tls import Reloading, client_context, client_contexts, server_context
from proto.kit.x509 import read_file
from tests.kit.identity import Identity, identity, serving
from tests.kit.wait import eventually

CLOCK = SystemClock()


class ShiftedClock(SystemClock):
    """The machine's clock, wrong by ``by``."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def wall(self) -> datetime:
        return super().wall() + self.by


@asynccontextmanager
async def cloud(directory: Path, settings: JoinSettings | None = None) -> AsyncIterator[tuple[Identity, str]]:
    async with identity(directory, CLOCK, settings) as room, serving(room) as url:
        yield room, url


async def test_joining_leaves_an_identity_and_settings_that_the_daemon_reads(tmp_path: Path) -> None:
    async with cloud(tmp_path / "cloud") as (room, url):
        joined = await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
    directory = DataDir(tmp_path / "edge")
    found = edge_settings.load(directory.path, env={})
    assert (found.node, found.cloud.join) == ("gw-1", url)
    assert found.cloud.broker == "mqtts://127.0.0.1:8883"
    assert joined.next_command == f"edgecore run --data-dir {directory.path}"
    assert not joined.warnings
    assert directory.joined()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (directory.key, directory.settings)} == {0o600}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (directory.path, directory.pki)} == {0o700}
    client_context(directory.certificate, directory.key, directory.ca)


async def test_joining_again_does_nothing_and_keeps_a_person_s_settings(tmp_path: Path) -> None:
    edge = tmp_path / "edge"
    async with cloud(tmp_path / "cloud") as (room, url):
        token = await room.token()
        await join(url, token, "gw-1", edge, clock=CLOCK)
        document = yaml.safe_load((edge / "edge.yaml").read_bytes())
        (edge / "edge.yaml").write_text(yaml.safe_dump({**document, "log_level": "debug"}))
        before = DataDir(edge).certificate.read_bytes()
        assert (await join(url, token, "gw-1", edge, clock=CLOCK)).already
        assert DataDir(edge).certificate.read_bytes() == before
        DataDir(edge).certificate.unlink()  # as if the power had failed before the last write
        assert not (await join(url, token, "gw-1", edge, clock=CLOCK)).already
    assert edge_settings.load(edge, env={}).log_level == "debug"


async def test_an_interrupted_join_goes_on_from_every_point(tmp_path: Path) -> None:
    edge = tmp_path / "edge"
    async with cloud(tmp_path / "cloud") as (room, url):
        token = await room.token()
        for delay_s in (0.0, 0.01, 0.05, 0.1, 0.2, 0.3):
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await join(url, token, "gw-1", edge, clock=CLOCK)
        await join(url, token, "gw-1", edge, clock=CLOCK)
    client_context(DataDir(edge).certificate, DataDir(edge).key, DataDir(edge).ca)
    assert sorted(p.name for p in DataDir(edge).pki.iterdir()) == ["ca.crt", "node.crt", "node.key"]


async def test_a_directory_of_another_node_or_cloud_is_left_alone(tmp_path: Path) -> None:
    edge = tmp_path / "edge"
    async with cloud(tmp_path / "cloud") as (room, url):
        await join(url, await room.token(), "gw-1", edge, clock=CLOCK)
        with pytest.raises(PreflightFailed, match="belongs to node gw-1: use another --data-dir"):
            await join(url, await room.token(), "gw-2", edge, clock=CLOCK)
    async with cloud(tmp_path / "other") as (room, url):
        with pytest.raises(PreflightFailed, match="node gw-1 of another cloud"):
            await join(url, await room.token(), "gw-1", edge, clock=CLOCK)


async def test_a_server_with_another_ca_never_sees_the_token(tmp_path: Path) -> None:
    async with cloud(tmp_path / "a") as (mine, _), cloud(tmp_path / "b") as (theirs, url):
        with pytest.raises(PreflightFailed, match="another certificate authority than the token names"):
            await join(url, await mine.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
        assert theirs.metrics.counter("skerry_join_refused_total", "", ("reason",)).values == {}


async def test_a_server_that_shows_our_ca_without_its_key_is_not_trusted(tmp_path: Path) -> None:
    async with identity(tmp_path / "a", CLOCK) as mine, identity(tmp_path / "b", CLOCK) as thief:
        thief.authority.ca_pem = mine.authority.ca_pem  # it can copy the public file, and nothing else
        async with serving(thief) as url:
            with pytest.raises(Terminal, match="not the cloud that this node trusts"):
                await join(url, await mine.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
        assert thief.metrics.counter("skerry_join_refused_total", "", ("reason",)).values == {}


async def test_a_certificate_of_our_ca_for_another_server_is_not_trusted(tmp_path: Path) -> None:
    async with identity(tmp_path / "a", CLOCK) as room:
        cert, key = room.authority.issue("api.example", sans=["api.example", "127.0.0.1"])
        (tmp_path / "x.crt").write_bytes(cert)
        (tmp_path / "x.key").write_bytes(key)
        port = await room.server.start("127.0.0.1", 0, server_context(tmp_path / "x.crt", tmp_path / "x.key"))
        with pytest.raises(Terminal, match="not the cloud"):
            await join(f"127.0.0.1:{port}", await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)


@pytest.mark.parametrize(
    ("by", "words"), [(timedelta(days=-10), "10 days behind"), (timedelta(days=10), "10 days ahead")]
)
async def test_a_wrong_clock_is_named_with_the_command_that_sets_it(tmp_path: Path, by: timedelta, words: str) -> None:
    async with cloud(tmp_path / "cloud") as (room, url):
        with pytest.raises(PreflightFailed, match=f"{words} .*timedatectl"):
            await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=ShiftedClock(by))
        near = await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=ShiftedClock(timedelta(hours=-1)))
    assert "60 minutes behind" in near.warnings[0]


async def test_refusals_of_the_cloud_reach_the_person(tmp_path: Path) -> None:
    async with cloud(tmp_path / "cloud") as (room, url):
        with pytest.raises(CloudRefused, match="the cloud refused: this token is for node gw-9, not for gw-1"):
            await join(url, await room.token(node="gw-9"), "gw-1", tmp_path / "edge", clock=CLOCK)


@pytest.mark.parametrize(
    ("where", "token", "node"),
    [
        ("http://x:1", "a.b." + "0" * 64, "gw-1"),
        ("https://", "a.b." + "0" * 64, "gw-1"),
        ("https://x:99999", "a.b." + "0" * 64, "gw-1"),
        ("https://x:1/path", "a.b." + "0" * 64, "gw-1"),
        ("https://x:1", "a.b.c", "gw-1"),
        ("https://x:1", "", "gw-1"),
        ("https://x:1", "a.b." + "0" * 64, "GW_1"),
    ],
)
async def test_what_cannot_work_is_a_usage_error_before_anything_happens(
    tmp_path: Path, where: str, token: str, node: str
) -> None:
    with pytest.raises(UsageError):
        await join(where, token, node, tmp_path / "edge", clock=CLOCK)
    assert not (tmp_path / "edge").exists()


async def test_nobody_there_and_no_name_say_what_to_check(tmp_path: Path) -> None:
    token = "a.b." + "0" * 64
    for where in ("https://127.0.0.1:1", "https://no-such-host.invalid"):
        with pytest.raises(Retryable, match=r"cannot reach https://.*check the address, DNS"):
            await join(where, token, "gw-1", tmp_path / "edge", clock=CLOCK)


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightFailed, match="--data-dir"):
        await join("x", "a.b." + "0" * 64, "gw-1", tmp_path / "file", clock=CLOCK)


def renewal(directory: DataDir, url: str) -> Renewal:
    return Renewal(directory, "gw-1", url, clock=CLOCK, rng=Rng(1), metrics=Metrics())


async def test_the_certificate_is_renewed_while_running_and_connections_take_it(tmp_path: Path) -> None:
    short = JoinSettings(node_days=2 / 86400)
    async with cloud(tmp_path / "cloud", short) as (room, url):
        await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
        directory = DataDir(tmp_path / "edge")
        contexts = client_contexts(directory.certificate, directory.key, directory.ca)
        first, context = read_file(directory.certificate), contexts()
        assert contexts() is context
        task = asyncio.get_running_loop().create_task(renewal(directory, url).run())
        await eventually(lambda: read_file(directory.certificate).serial != first.serial)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert contexts() is not context


async def test_an_ended_certificate_is_renewed_and_a_revoked_one_is_not(tmp_path: Path) -> None:
    async with cloud(tmp_path / "cloud", JoinSettings(node_days=-0.5)) as (room, url):
        await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
        directory = DataDir(tmp_path / "edge")
        assert read_file(directory.certificate).not_after < CLOCK.wall()
        before = read_file(directory.certificate)
        assert (await renewal(directory, url).renew()).serial != before.serial
        await room.sql.tx(lambda c: revocation.revoke(c, "gw-1", CLOCK.wall()))
        with pytest.raises(CloudRefused, match="was revoked: it must join again with a new token"):
            await renewal(directory, url).renew()
    with pytest.raises(Retryable, match="cannot reach"):
        await renewal(directory, url).renew()


async def test_a_renewal_without_the_cloud_says_so_and_changes_nothing(tmp_path: Path) -> None:
    async with cloud(tmp_path / "cloud", JoinSettings(node_days=-0.5)) as (room, url):
        await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
    directory = DataDir(tmp_path / "edge")
    before = read_file(directory.certificate)
    away = renewal(directory, url)
    task = asyncio.get_running_loop().create_task(away.run())
    await eventually(lambda: "cannot reach" in away.status().problem)
    assert away.status().not_after == before.not_after
    assert read_file(directory.certificate) == before
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_joining_and_renewing_work_in_the_daemons_loop(tmp_path: Path) -> None:
    async def work() -> None:
        async with cloud(tmp_path / "cloud") as (room, url):
            await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
            await renewal(DataDir(tmp_path / "edge"), url).renew()
        async with cloud(tmp_path / "other") as (room, url):
            with pytest.raises(Terminal, match="not the cloud"):
                await renewal(DataDir(tmp_path / "edge"), url).renew()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


@pytest.mark.parametrize("step", ["certificate written", "key moved"])
async def test_a_renewal_cut_by_a_crash_is_completed(tmp_path: Path, step: str) -> None:
    async with cloud(tmp_path / "cloud") as (room, url):
        await join(url, await room.token(), "gw-1", tmp_path / "edge", clock=CLOCK)
        directory = DataDir(tmp_path / "edge")
        old = (directory.key.read_bytes(), directory.certificate.read_bytes())
        await renewal(directory, url).renew()
    new = (directory.key.read_bytes(), directory.certificate.read_bytes())
    directory.certificate.with_name("node.crt.next").write_bytes(new[1])
    directory.certificate.write_bytes(old[1])
    if step == "certificate written":
        next_key(directory).write_bytes(new[0])
        directory.key.write_bytes(old[0])
    finish_swap(directory)
    assert (directory.key.read_bytes(), directory.certificate.read_bytes()) == new
    client_context(directory.certificate, directory.key, directory.ca)


async def test_a_listener_takes_a_renewed_certificate_and_drops_nobody(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path, CLOCK)
    pair = authority.server_certificate()
    context = server_context(pair.cert, pair.key)
    reloading = Reloading(context, pair.cert, pair.key, clock=CLOCK)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ca=authority.ca_file))
        seen: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return reader, writer, str((seen.getpeercert() or {})["serialNumber"])

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        reader, writer, old = await connect()
        assert not reloading.check()
        _other_key(authority, tmp_path).replace(pair.key)
        assert not reloading.check()  # the pair is torn for now: what was loaded stays
        (await connect())[1].close()
        authority.server_certificate(["renamed.example"])
        assert reloading.check()
        _, second, new = await connect()
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        assert old != new
        writer.close()
        second.close()


def _other_key(authority: Authority, directory: Path) -> Path:
    other = directory / "other"
    other.write_bytes(authority.issue("x")[1])
    return other

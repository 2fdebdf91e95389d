"""Revocations reach a running daemon, whoever wrote them."""

import asyncio
from pathlib import Path

from cloudcore import revocation
from cloudcore.certs import Authority
from cloudcore.revocation import Revocations
from cloudcore.sql import Sql
from proto.kit.clock import SystemClock
from proto.kit.x509 import read_file
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually

CLOCK = SystemClock()


async def test_a_revocation_by_another_process_is_heard_while_running(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'cloud.db'}"
    daemon, command = Sql.open(url), Sql.open(url)
    revocations, told = Revocations(daemon, CLOCK, poll_s=0.01), list[str]()
    revocations.subscribe(told.append)
    task = asyncio.get_running_loop().create_task(revocations.run())
    await command.tx(lambda c: revocation.revoke(c, "gw-1", CLOCK.wall()))
    await eventually(lambda: told)
    assert revocations.is_revoked("system:node:gw-1", "AB")
    assert not revocations.is_revoked("system:node:gw-2", "AB")
    await command.tx(lambda c: revocation.revoke(c, "gw-1", CLOCK.wall()))
    await command.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await daemon.close()
    assert told == ["gw-1"]


async def test_without_the_database_what_was_revoked_stays_so(tmp_path: Path) -> None:
    sql = Sql.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    revocations = Revocations(sql, CLOCK, poll_s=0.01)
    await sql.tx(lambda c: revocation.revoke(c, "gw-1", CLOCK.wall()))
    await revocations.load()
    await sql.tx(lambda c: c.exec_driver_sql("drop table node_revocations"))
    task = asyncio.get_running_loop().create_task(revocations.run())
    await asyncio.wait({task}, timeout=0.1)
    assert not task.done()
    assert revocations.is_revoked("gw-1", "")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await sql.close()


async def test_the_daemon_renews_its_own_certificates_while_running(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = Authority.open_or_create(tmp_path, clock)
    server, own = authority.server_certificate(), authority.client_certificate("cloudcore", "system:cloudcore")
    before = read_file(server.cert).serial, read_file(own.cert).serial
    clients = [("cloudcore", "system:cloudcore", ["system:masters"])]
    task = asyncio.get_running_loop().create_task(authority.keep_fresh([], clients))

    def renewed() -> bool:
        clock.advance(86400.0)
        now = read_file(server.cert).serial, read_file(own.cert).serial
        return now[0] != before[0] and now[1] != before[1]

    await eventually(renewed)
    assert read_file(own.cert).not_before < clock.wall() < read_file(own.cert).not_after
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

"""What a real broker is told: the files, their owners' rights, and that they follow joins and revocations."""

import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from cloudcore import revocation
from cloudcore.broker_files import BrokerFiles, mosquitto_acl, nats_users
from proto.kit.clock import SystemClock
from proto.kit.tls import server_context
from proto.kit.x509 import read_pem
from tests.kit.identity import Identity, identity, new_key

CLOCK = SystemClock()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Identity]:
    async with identity(tmp_path, CLOCK) as opened:
        yield opened


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


async def join(room: Identity, node: str) -> str:
    answer = await room.join(await room.token(node=node), node, new_key())
    return read_pem(answer.body.replace(b"\\n", b"\n")).serial


def test_a_node_s_lines_name_its_own_topics_and_a_wildcard_only_for_its_own_streams() -> None:
    block = mosquitto_acl(["gw-1"]).split("\n\n")[1]
    assert block == (
        "user system:node:gw-1\ntopic write skerry/1/gw-1/up\ntopic write skerry/1/gw-1/presence\n"
        "topic write skerry/1/gw-1/s/+/up\ntopic read skerry/1/gw-1/down\ntopic read skerry/1/gw-1/s/+/down\n"
    )
    (_, nats) = nats_users(["gw-1"]).split("\n")
    assert 'user: "CN=system:node:gw-1,O=system:nodes"' in nats
    assert 'publish: ["skerry.1.gw-1.up", "skerry.1.gw-1.presence", "skerry.1.gw-1.s.*.up"]' in nats
    assert nats_users([]).count("CN=") == 1


async def test_files_follow_joins_and_revocations(room: Identity, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = BrokerFiles(room.sql, room.authority, out, clock=CLOCK, names=["broker.example"])
    assert await written.update()
    assert not await written.update()
    serial = await join(room, "gw-1")
    assert await written.update()
    assert "system:node:gw-1" in (out / "acl").read_text()

    await room.sql.tx(lambda c: revocation.revoke(c, "gw-1", CLOCK.wall()))
    assert await written.update()
    assert "gw-1" not in (out / "acl").read_text()
    crl = x509.load_pem_x509_crl((out / "crl.pem").read_bytes())
    assert [f"{entry.serial_number:X}" for entry in crl] == [serial.lstrip("0")]
    assert crl.is_signature_valid(room.authority.certificate.public_key())  # type: ignore[arg-type]


async def test_the_command_writes_a_directory_that_a_broker_can_start_from(room: Identity, tmp_path: Path) -> None:
    await join(room, "gw-1")
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "cloudcore.broker_files", str(tmp_path), str(out), "--name", "broker.example"]
    done = run(argv)
    assert (done.returncode, done.stdout) == (0, "")
    server_context(out / "server.crt", out / "server.key", out / "ca.crt", require_client=True)
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in out.iterdir() if path.suffix == ".key"} == {0}
    again = run([*argv, "--database", "nonsense"])
    assert again.returncode == 2
    assert again.stderr.startswith("broker files: database 'nonsense'")
    assert "Traceback" not in again.stderr

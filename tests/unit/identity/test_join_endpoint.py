"""The join endpoint's answers: who gets a certificate, who does not, and what each is told."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloudcore import revocation, tokens
from cloudcore.join import JoinSettings, renewal_message
from edgecore import keys
from kubeapi.http import Response
from proto.kit.x509 import read_pem
from tests.kit.clock import ManualClock
from tests.kit.identity import Identity, identity, new_key, said
from tests.kit.postgres import Postgres, postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Identity]:
    url = request.getfixturevalue("server").url() if request.param == "postgresql" else ""
    async with identity(tmp_path, ManualClock(), database=url) as opened:
        yield opened


def certificate(response: Response) -> bytes:
    assert response.status == 200, response.body
    return str(json.loads(response.body)["certificate"]).encode()


async def renewal(room: Identity, old: bytes, key: ec.EllipticCurvePrivateKey, **changed: str) -> Response:
    nonce = json.loads((await room.call("GET", "/nonce")).body)["nonce"]
    csr = keys.request(new_key(), "gw-1")
    signature = key.sign(renewal_message(nonce, csr), ec.ECDSA(hashes.SHA256()))
    body = {"certificate": old.decode(), "csr": csr, "nonce": nonce, "signature": b64encode(signature).decode()}
    return await room.call("POST", "/renew", {**body, **changed})


def advance(room: Identity, *, days: float) -> None:
    assert isinstance(room.clock, ManualClock)
    room.clock.advance(days * 86400)


async def test_a_token_gives_one_node_its_certificate(room: Identity) -> None:
    answer = await room.join(await room.token(), "gw-1", new_key())
    signed = x509.load_pem_x509_certificate(certificate(answer))
    assert signed.subject.rfc4514_string() == "CN=system:node:gw-1,O=system:nodes"
    assert room.authority.signed_by_us(signed)
    assert json.loads(answer.body)["broker_port"] == 8883


async def test_the_same_key_may_repeat_and_another_may_not(room: Identity) -> None:
    token, key = await room.token(), new_key()
    assert (await room.join(token, "gw-1", key)).status == 200
    assert (await room.join(token, "gw-1", key)).status == 200
    assert said(await room.join(token, "gw-2", key))[0] == 403
    status, message = said(await room.join(token, "gw-1", new_key()))
    assert status == 403
    assert "used already" in message
    assert room.metrics.counter("skerry_join_refused_total", "", ("reason",)).value("token_used") == 2


async def test_a_token_for_a_node_joins_no_other(room: Identity) -> None:
    token = await room.token(node="gw-1")
    assert said(await room.join(token, "gw-2", new_key())) == (403, "this token is for node gw-1, not for gw-2")
    assert (await room.join(token, "gw-1", new_key())).status == 200


async def test_expired_deleted_foreign_and_mistyped_tokens_open_nothing(room: Identity) -> None:
    key = new_key()
    expired, deleted, good = [await room.token() for _ in range(3)]
    assert await room.sql.tx(lambda c: tokens.delete(c, deleted))
    token_id, secret, ca = good.split(".")
    cases = {
        deleted: (401, "not known"),
        f"{token_id}.{secret[:-1]}.{ca}": (401, "not known"),
        f"{token_id}.{secret}.{'0' * 64}": (401, "another cloud"),
        f"{token_id}.{secret}": (400, "no join token"),
        "": (400, "no join token"),
        "a.b.ü": (400, "no join token"),
        "x" * 300: (400, "no join token"),
    }
    for number, (token, (status, words)) in enumerate(cases.items()):
        found = said(await room.join(token, "gw-1", key, peer=f"10.0.1.{number}"))
        assert (found[0], words in found[1]) == (status, True), (token, found)
    advance(room, days=1)
    status, message = said(await room.join(expired, "gw-1", key))
    assert (status, "expired at 2026-01-01 01:00:00 UTC" in message) == (401, True)


async def test_a_joined_name_is_not_taken_over_with_a_token_for_anybody(room: Identity) -> None:
    assert (await room.join(await room.token(), "gw-1", new_key())).status == 200
    token = await room.token()
    status, message = said(await room.join(token, "gw-1", new_key()))
    assert (status, "cloudcore token create --node gw-1" in message) == (409, True)
    assert (await room.join(token, "gw-2", new_key())).status == 200  # the refusal did not use the token up


async def test_a_token_for_the_name_replaces_the_machine_and_ends_its_certificates(room: Identity) -> None:
    old = read_pem(certificate(await room.join(await room.token(), "gw-1", new_key())))
    fresh = read_pem(certificate(await room.join(await room.token(node="gw-1"), "gw-1", new_key())))
    assert room.revocations.is_revoked("system:node:gw-1", old.serial)
    assert not room.revocations.is_revoked("system:node:gw-1", fresh.serial)


async def test_a_revoked_node_renews_nothing_and_joins_only_with_a_new_key(room: Identity) -> None:
    key = new_key()
    old = certificate(await room.join(await room.token(), "gw-1", key))
    told: list[str] = []
    room.revocations.subscribe(told.append)
    assert await room.sql.tx(lambda c: revocation.revoke(c, "gw-1", room.clock.wall())) == 1
    await room.revocations.load()
    assert told == ["gw-1"]
    assert room.revocations.is_revoked("system:node:gw-1", read_pem(old).serial)
    assert said(await renewal(room, old, key))[0] == 403
    assert said(await room.join(await room.token(node="gw-1"), "gw-1", key))[0] == 403
    assert said(await room.join(await room.token(), "gw-1", new_key()))[0] == 409
    fresh = certificate(await room.join(await room.token(node="gw-1"), "gw-1", new_key()))
    assert not room.revocations.is_revoked("gw-1", read_pem(fresh).serial)
    assert room.revocations.is_revoked("gw-1", read_pem(old).serial)


async def test_a_certificate_is_renewed_by_its_key_even_after_its_end(room: Identity) -> None:
    key = new_key()
    old = certificate(await room.join(await room.token(), "gw-1", key))
    first = read_pem(certificate(await renewal(room, old, key)))
    assert first.common_name == "system:node:gw-1"
    advance(room, days=200)
    assert read_pem(old).not_after < room.clock.wall()
    assert read_pem(certificate(await renewal(room, old, key))).not_after > room.clock.wall()
    advance(room, days=366)
    status, message = said(await renewal(room, old, key))
    assert (status, "too long ago" in message) == (401, True)


async def test_a_renewal_needs_the_old_key_a_fresh_nonce_and_our_certificate(room: Identity, tmp_path: Path) -> None:
    key = new_key()
    old = certificate(await room.join(await room.token(), "gw-1", key))
    nonce = json.loads((await room.call("GET", "/nonce")).body)["nonce"]
    advance(room, days=301 / 86400)
    server = room.authority.server_certificate().cert.read_bytes()
    async with identity(tmp_path / "other", room.clock) as other:
        foreign = certificate(await other.join(await other.token(), "gw-1", key))
    assert said(await renewal(room, old, new_key()))[0] == 401
    assert said(await renewal(room, old, key, nonce=nonce))[0] == 400
    assert said(await renewal(room, old, key, nonce="1.x.y"))[0] == 400
    assert said(await renewal(room, old, key, csr=keys.request(new_key(), "gw-1")))[0] == 401
    assert said(await renewal(room, server, key))[0] == 401
    assert said(await renewal(room, foreign, key))[0] == 401
    assert said(await renewal(room, b"junk", key))[0] == 400
    assert said(await renewal(room, old, key, signature="%%%"))[0] == 400


async def test_bodies_that_are_no_request_get_one_sentence(room: Identity) -> None:
    extra = b'{"token":"a","node":"b","csr":"c","more":1}'
    for raw in (b"", b"null", b"[]", b"{", b'{"token":1}', b"\xff\xfe", extra, b"[" * 10000):
        for path in ("/join", "/renew"):
            status, message = said(await room.call("POST", path, raw=raw))
            assert status == 400, raw
            assert "\n" not in message
            assert "Traceback" not in message


async def test_a_name_that_is_no_node_name_is_refused(room: Identity) -> None:
    for node in ("", "GW", "a/b", "a" * 53, "+", "#", "a\x00b", "-a", "system:node:x", "ü"):
        assert said(await room.join(await room.token(), node, new_key()))[0] == 400, node


async def test_other_paths_and_methods_are_refused(room: Identity) -> None:
    assert said(await room.call("GET", "/join"))[0] == 405
    assert said(await room.call("GET", "/etc/passwd"))[0] == 404
    assert (await room.call("GET", "/ca.crt")).body == room.authority.ca_pem


async def test_an_address_that_guesses_is_slowed_and_others_are_not(room: Identity) -> None:
    key = new_key()
    for _ in range(JoinSettings().refusals_burst):
        assert said(await room.join("a.b.c", "gw-1", key))[0] == 401
    assert said(await room.join(await room.token(), "gw-1", key))[0] == 429
    assert (await room.join(await room.token(), "gw-2", key, peer="10.0.0.2")).status == 200
    advance(room, days=60 / 86400)
    assert (await room.join(await room.token(), "gw-1", key)).status == 200


async def test_no_secret_is_stored_or_listed(room: Identity) -> None:
    token = await room.token(node="gw-1")
    secret = token.split(".")[1]

    def stored(connection: Any) -> str:
        return str(connection.exec_driver_sql("select * from join_tokens").all())

    assert secret not in await room.sql.read(stored)
    (view,) = await room.sql.read(lambda c: tokens.list_tokens(c, room.clock.wall()))
    assert secret not in str(view)
    assert (view.node, view.used_at, view.expired) == ("gw-1", None, False)

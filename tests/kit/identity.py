"""A cloud's identity room for tests: authority, database, revocations and the join endpoint's handler."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from cloudcore import tokens
from cloudcore.certs import Authority
from cloudcore.join import JoinServer, JoinSettings
from cloudcore.revocation import Revocations
from cloudcore.sql import Sql
from edgecore.keys import request as csr_for
from kubeapi.http import Request, Response
from proto.kit.clock import Clock
from proto.kit.metrics import Metrics
from proto.kit.tls import server_context


@dataclass
class Identity:
    """The room, and shortcuts into it."""

    authority: Authority
    sql: Sql
    revocations: Revocations
    server: JoinServer
    metrics: Metrics
    clock: Clock

    async def token(self, node: str = "", ttl_s: float = 3600.0) -> str:
        def work(connection: Any) -> str:
            return tokens.create(
                connection, ca_hash=self.authority.ca_hash, now=self.clock.wall(), ttl_s=ttl_s, node=node
            )

        return await self.sql.tx(work)

    async def call(
        self, method: str, path: str, body: object = None, *, raw: bytes | None = None, peer: str = "10.0.0.1"
    ) -> Response:
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if method == "POST" else {}
        return await self.server.handle(Request(method, path, "", headers, content, peer_host=peer))

    async def join(self, token: str, node: str, key: ec.EllipticCurvePrivateKey, peer: str = "10.0.0.1") -> Response:
        return await self.call("POST", "/join", {"token": token, "node": node, "csr": csr_for(key, "any")}, peer=peer)


@asynccontextmanager
async def identity(
    directory: Path, clock: Clock, settings: JoinSettings | None = None, database: str = ""
) -> AsyncIterator[Identity]:
    authority = Authority.open_or_create(directory / "pki", clock)
    sql = Sql.open(database or f"sqlite:///{directory / 'cloud.db'}")
    metrics = Metrics()
    revocations = Revocations(sql, clock)
    server = JoinServer(authority, sql, settings, clock=clock, metrics=metrics, revocations=revocations)
    try:
        yield Identity(authority, sql, revocations, server, metrics, clock)
    finally:
        await server.close()
        await sql.close()


@asynccontextmanager
async def serving(room: Identity) -> AsyncIterator[str]:
    """Serve the join endpoint on loopback; gives its URL. ``room.server`` can be started once."""
    pair = room.authority.server_certificate()
    port = await room.server.start("127.0.0.1", 0, server_context(pair.cert, pair.key))
    yield f"https://127.0.0.1:{port}"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def said(response: Response) -> tuple[int, str]:
    """(status, message) of a refusal."""
    return response.status, json.loads(response.body)["message"]

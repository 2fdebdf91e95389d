"""The HTTP face without a network: requests in, answers out, an identity per call."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeapi import kinds
from kubeapi.access import Access, Authenticator, Authorizer, User
from kubeapi.controllers.builtin import BuiltinControllers
from kubeapi.controllers.csr import Sign
from kubeapi.crds import Crds
from kubeapi.http import Answer as HttpAnswer
from kubeapi.http import PeerCertificate, Request, Response, StreamResponse
from kubeapi.nodeauth import NodeAuthorizer
from kubeapi.objects import Objects
from kubeapi.rbac import Rbac
from kubeapi.server import ApiServer, ApiSettings
from kubeapi.store import Store
from kubeapi.tokens import TokenSigner
from proto.kit.backoff import Rng
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from tests.kit.clock import ManualClock

NEVER = 4e9
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
ADMIN = PeerCertificate("admin", ("system:masters",), "01", NEVER)
DEVICE_CRDS = Path(__file__).parents[3] / "deploy" / "crds"


def person(name: str, *groups: str) -> PeerCertificate:
    return PeerCertificate(name, groups, "02", NEVER)


def node(name: str) -> PeerCertificate:
    return person(f"system:node:{name}", "system:nodes")


@dataclass
class Answer:
    """``value`` is the decoded JSON, None when the body is none."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.value.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.value.get("message", ""))


class Face:
    """One API with a manual clock."""

    def __init__(self, server: ApiServer, store: Store, clock: ManualClock, metrics: Metrics) -> None:
        self.server, self.store, self.clock, self.metrics = server, store, clock, metrics
        self.revoked: set[str] = set()
        self.port = 0
        self.controllers = BuiltinControllers(server.objects)

    async def raw(
        self, method: str, path: str, body: bytes = b"", who: PeerCertificate | None = ADMIN, **headers: str
    ) -> HttpAnswer:
        path, _, query = path.partition("?")
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.server.handle(Request(method, path, query, {"host": "x", **named}, body, "127.0.0.1", who))

    async def ask(
        self, method: str, path: str, body: Any = None, who: PeerCertificate | None = ADMIN, **headers: str
    ) -> Answer:
        """Send ``body`` as JSON (bytes as they are)."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if method == "PATCH":
            headers.setdefault("content_type", "application/merge-patch+json")
        response = await self.raw(method, path, content, who, **headers)
        assert isinstance(response, Response)
        return Answer(response.status, response.body, dict(response.headers) | {"Content-Type": response.content_type})

    async def must(self, method: str, path: str, body: Any = None, who: PeerCertificate | None = ADMIN) -> Any:
        answer = await self.ask(method, path, body, who)
        assert answer.status < 300, answer.body
        return answer.value

    async def make_namespaced(self, plural: str, body: dict[str, Any], group: str = "/api/v1") -> Any:
        return await self.must("POST", f"{group}/namespaces/default/{plural}", body)


class Watching:
    """The lines of an open watch, one at a time."""

    def __init__(self, response: HttpAnswer) -> None:
        assert isinstance(response, StreamResponse)
        assert response.chunks is not None
        self._chunks = response.chunks
        self._lines: list[bytes] = []

    async def next(self) -> Any:
        while not self._lines:
            self._lines = (await asyncio.wait_for(anext(self._chunks), 5)).splitlines()
        return json.loads(self._lines.pop(0))

    async def close(self) -> None:
        await self._chunks.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def open_face(
    directory: Path,
    *,
    settings: ApiSettings | None = None,
    sign: Sign | None = None,
    authorizers: tuple[Authorizer, ...] = (),
) -> AsyncIterator[Face]:
    """A whole API over a real file; it listens on loopback, though these tests go in by ``handle``."""
    clock, metrics, registry = ManualClock(), Metrics(), kinds.registry()
    db = Database.open(directory / "kube.db")
    store = await Store.open(db, registry, clock)
    crds = Crds(store, registry, clock)
    crds.start()
    objects = Objects(store, registry, clock, admission=[crds.admit], rng=Rng(7))
    gone: set[str] = set()
    authenticator = Authenticator(
        store,
        registry,
        clock,
        signer=TokenSigner(b"k" * 32, clock),
        static_tokens={"letmein": User("operator", ("system:masters",))},
        revoked=lambda certificate: certificate.common_name in gone,
    )
    access = Access(authenticator, [*authorizers, NodeAuthorizer(store, registry), Rbac(store)])
    server = ApiServer(objects, access, settings, clock=clock, sign=sign, metrics=metrics, rng=Rng(7))
    port = await server.start("127.0.0.1", 0, None)
    face = Face(server, store, clock, metrics)
    face.port = port
    face.revoked = gone
    await face.controllers.start()
    try:
        yield face
    finally:
        await server.close()
        await db.close()

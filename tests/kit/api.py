"""The real embedded API over TLS for tests: in this loop, or in a thread of its own for clients that block."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.x509.oid import NameOID

from cloudcore import kubeconfig
from cloudcore.certs import Authority, parse_csr
from kubeapi.access import User
from kubeapi.controllers.csr import SERVING, SigningRequest
from kubeapi.embedded import Identity, open_api
from kubeapi.server import ApiServer, ApiSettings
from proto.kit import tls
from proto.kit.clock import SystemClock
from proto.kit.database import Database

ADMIN_TOKEN = "admin-token-of-the-tests"
TOKEN_KEY = b"k" * 32


@dataclass
class Api:
    """A serving API. ``kubeconfig(user, groups)`` writes one for a client certificate."""

    server: ApiServer
    authority: Authority
    directory: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str = "admin", groups: tuple[str, ...] = ("system:masters",)) -> Path:
        pair = self.authority.client_certificate(f"client-{user.replace(':', '-')}", user, groups)
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        kubeconfig.write(path, self.url, self.authority.ca_pem, pair, user=user)
        return path


def sign_with(authority: Authority, request: SigningRequest) -> bytes:
    """Sign what the request itself names, as the real signers do."""
    subject = parse_csr(request.request).subject
    names = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    sans = _sans(request.request) if request.signer == SERVING else ()
    days = request.lifetime.total_seconds() / 86400
    return authority.sign_csr(request.request, user=names[0], groups=groups, days=days, sans=sans).pem


def _sans(pem: bytes) -> list[str]:
    found = parse_csr(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *(str(ip) for ip in found.get_values_for_type(x509.IPAddress))]


@asynccontextmanager
async def serving_api(directory: Path, settings: ApiSettings | None = None) -> AsyncIterator[Api]:
    """Serve on loopback until the block ends."""
    clock = SystemClock()
    authority = Authority.open_or_create(directory / "pki", clock)
    pair = authority.server_certificate()
    context = tls.server_context(pair.cert, pair.key, authority.ca_pem)
    db = Database.open(directory / "kube.db")
    identity = Identity(
        token_key=TOKEN_KEY,
        static_tokens={ADMIN_TOKEN: User("admin", ("system:masters",))},
        sign=lambda request: sign_with(authority, request),
    )
    server = await open_api(db, clock=clock, identity=identity, settings=settings)
    port = await server.start("127.0.0.1", 0, context)
    try:
        yield Api(server, authority, directory, port)
    finally:
        await server.close()
        await db.close()


@contextmanager
def api_in_thread(directory: Path) -> Iterator[Api]:
    """Serve from another thread's uvloop until the block ends."""
    ready: list[Api] = []
    stop = threading.Event()
    started = threading.Event()

    async def main() -> None:
        async with serving_api(directory) as api:
            ready.append(api)
            started.set()
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=run, name="api", daemon=True)
    thread.start()
    started.wait(30)
    if not ready:
        raise AssertionError("the API did not start")
    try:
        yield ready[0]
    finally:
        stop.set()
        thread.join(30)

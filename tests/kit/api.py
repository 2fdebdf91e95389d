"""cloudcore's embedded API over TLS for tests: in this loop, or in a thread of its own for clients that block."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from cloudcore import kubeconfig
from cloudcore.certs import Authority
from cloudcore.embedded_api import EmbeddedApi
from cloudcore.revocation import Revocations
from cloudcore.settings import Api
from cloudcore.sql import Sql
from kubeapi.kinds import NAMESPACE
from kubeapi.objects import Objects
from proto.kit import tls
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.metrics import Metrics

START_TIMEOUT_S = 30


@dataclass
class ServingApi:
    """A serving API. ``kubeconfig(user, groups)`` writes one for a client certificate."""

    objects: Objects
    authority: Authority
    directory: Path
    port: int
    metrics: Metrics
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str = "admin", groups: tuple[str, ...] = ("system:masters",)) -> Path:
        name = user.replace(":", "-")
        pair = self.authority.client_certificate(f"client-{name}", user, groups)
        path = self.directory / f"{name}.kubeconfig"
        kubeconfig.write(path, self.url, self.authority.ca_pem, pair, user=user)
        return path

    def make_namespace(self, name: str) -> None:
        """Create a namespace, from another thread than the API's."""
        creating = self.objects.create(NAMESPACE, "", {"metadata": {"name": name}})
        asyncio.run_coroutine_threadsafe(creating, self.loop).result(START_TIMEOUT_S)


@asynccontextmanager
async def serving_api(directory: Path) -> AsyncIterator[ServingApi]:
    """Serve on loopback until the block ends."""
    clock, metrics = SystemClock(), Metrics()
    authority = Authority.open_or_create(directory / "pki", clock)
    pair = authority.server_certificate()
    sql = Sql.open(f"sqlite:///{directory}/cloud.db")
    revocations = Revocations(sql, clock)
    await revocations.load()
    options = Api(host="127.0.0.1", port=0)
    embedded = await EmbeddedApi.open(
        directory, authority, revocations, options, clock=clock, rng=Rng(7), metrics=metrics
    )
    supervisor = Supervisor(clock)
    await embedded.start(supervisor)
    port = await embedded.listen(tls.server_context(pair.cert, pair.key, authority.ca_pem))
    try:
        yield ServingApi(embedded.objects, authority, directory, port, metrics, asyncio.get_running_loop())
    finally:
        await embedded.close()
        await supervisor.close()
        await sql.close()


@contextmanager
def api_in_thread(directory: Path) -> Iterator[ServingApi]:
    """Serve from another thread's uvloop until the block ends."""
    serving: list[ServingApi] = []
    stop, started = threading.Event(), threading.Event()

    async def main() -> None:
        async with serving_api(directory) as api:
            serving.append(api)
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
    started.wait(START_TIMEOUT_S)
    assert serving, "the API did not start"
    try:
        yield serving[0]
    finally:
        stop.set()
        thread.join(START_TIMEOUT_S)

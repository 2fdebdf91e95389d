import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from edgecore import admin
from edgecore.api import Api
from edgecore.data_dir import DataDir, Lock, Running
from proto.kit.clock import SystemClock
from proto.kit.errors import SkerryError
from proto.kit.metrics import Metrics


class Page:
    def __init__(self) -> None:
        self.trouble = ""
        self.metrics = Metrics()
        self.metrics.counter("edge_things_total", "Things.").inc()
        self.api = Api(
            status=lambda: {"node": "gw-1"}, unready=lambda: self.trouble, metrics=self.metrics, clock=SystemClock()
        )
        self.port = 0

    async def get(self, path: str) -> bytes | None:
        return await asyncio.to_thread(admin.fetch, "127.0.0.1", self.port, path)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    page.port = await page.api.start("127.0.0.1", 0)
    yield page
    await page.api.close()


async def test_a_live_daemon_is_healthy_and_ready(page: Page) -> None:
    assert await page.get("/healthz") == b"ok\n"
    assert await page.get("/readyz") == b"ok\n"


async def test_a_daemon_in_trouble_is_not_ready(page: Page) -> None:
    page.trouble = "the disk is full"

    assert await page.get("/readyz") is None
    assert await page.get("/healthz") == b"ok\n"


async def test_metrics_are_prometheus_text(page: Page) -> None:
    text = await page.get("/metrics")

    assert text is not None
    assert b"# TYPE edge_things_total counter\nedge_things_total 1\n" in text


async def test_the_commands_find_the_daemon_through_its_lock(page: Page, directory: DataDir) -> None:
    lock = Lock(directory)
    lock.take()
    lock.say(Running(1, "127.0.0.1", page.port))

    running, live = await asyncio.to_thread(admin.live_status, directory)

    lock.release()
    assert running == Running(1, "127.0.0.1", page.port)
    assert live == {"node": "gw-1"}


async def test_an_unknown_path_is_not_found(page: Page) -> None:
    assert await page.get("/secrets") is None


async def test_a_taken_port_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = Page()
        with pytest.raises(SkerryError, match=r"set api\.port"):
            await page.api.start("127.0.0.1", taken.getsockname()[1])

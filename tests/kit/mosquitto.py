"""A real Mosquitto on a free port of the loopback, for the time of a test."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.ports import free_port

BINARY = "/usr/sbin/mosquitto"
START_TIMEOUT_S = 10.0


class Mosquitto:
    """One broker process with the given extra configuration lines."""

    def __init__(self, directory: Path, *, port: int | None = None, extra: str = "") -> None:
        self.port = port or free_port()
        self.directory = directory
        self.config = directory / f"mosquitto-{self.port}.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n{extra}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        log = (self.directory / "mosquitto.log").open("ab")
        self.process = subprocess.Popen([BINARY, "-c", str(self.config)], stdout=log, stderr=log)  # noqa: ASYNC220
        log.close()
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@asynccontextmanager
async def mosquitto(directory: Path, *, extra: str = "") -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(directory, extra=extra)
    await broker.start()
    try:
        yield broker
    finally:
        broker.kill()

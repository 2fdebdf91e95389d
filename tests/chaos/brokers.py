"""The brokers that stand between edge and cloud: ours inside cloudcore, Mosquitto, and amqtt, which forgets."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.kit.ports import free_port
from tests.kit.process import Daemon
from tests.kit.wait import eventually

NAMES = ("embedded", "mosquitto", "amqtt")
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


async def listening(port: int) -> bool:
    """Whether somebody accepts connections on ``port``."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass
class ForeignBroker:
    """A broker process of its own on loopback, without TLS and rights: the link alone must lose nothing."""

    name: str
    folder: Path
    port: int
    process: "asyncio.subprocess.Process | None" = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*self._argv(), stdout=log, stderr=log)
        await eventually(lambda: listening(self.port), 15.0)

    def _argv(self) -> list[str]:
        if self.name == "amqtt":
            return [*Daemon("", ["tests.chaos.amqtt_broker", str(self.port)], Path()).argv]
        config = self.folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        return [MOSQUITTO, "-c", str(config)]

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def foreign(name: str, folder: Path) -> ForeignBroker | None:
    """The broker of that name; None for the embedded one."""
    return None if name == "embedded" else ForeignBroker(name, folder, free_port())

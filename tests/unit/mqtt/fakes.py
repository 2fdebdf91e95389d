"""A broker's connection without a socket: bytes in by ``receive``, bytes out in ``sent``."""

import asyncio
from typing import Any

from proto.mqtt.broker import MqttBroker
from proto.mqtt.connection import ClientConnection


class FakeTransport(asyncio.Transport):
    def __init__(self, address: str = "10.0.0.1", peercert: dict[str, Any] | None = None) -> None:
        super().__init__({"peername": (address, 1), "peercert": peercert})
        self.sent = bytearray()
        self.closed = False
        self.reading = True
        self.buffered_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes


class FakeClient:
    """One client of ``broker``."""

    def __init__(self, broker: MqttBroker, **transport: Any) -> None:
        self.transport = FakeTransport(**transport)
        self.connection = ClientConnection(broker)
        self.connection.connection_made(self.transport)

    def receive(self, content: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(content)

    async def sent(self) -> bytes:
        """Return and forget what the broker wrote, after its turn of the loop."""
        for _ in range(3):
            await asyncio.sleep(0)
        out = bytes(self.transport.sent)
        self.transport.sent.clear()
        return out

    def lose(self) -> None:
        self.transport.closed = True
        self.connection.connection_lost(None)

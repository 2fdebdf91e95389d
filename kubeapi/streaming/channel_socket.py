"""Channel-framed messages over a WebSocket: a message is ``channel | bytes`` or, in the base64 forms, a digit and base64 text.

v5 adds ``255 | channel``: nothing more comes on it.
"""

import asyncio
import base64
import binascii
from contextlib import suppress

from kubeapi.streaming import websocket
from kubeapi.streaming.spdy_session import LINGER_S, Wire
from proto.kit.channels import ChannelsClosed, Chunk

CLOSE_CHANNEL = 255


class MessageReader:
    """Pieces of messages to chunks, as they come."""

    def __init__(self, *, base64_text: bool, closes: bool) -> None:
        self._base64, self._closes = base64_text, closes
        self._channel = -1
        self._rest = b""

    def feed(self, piece: websocket.Piece) -> Chunk | None:
        """Return what a piece brings; an empty chunk is a half-close. Raises ChannelsClosed."""
        data = piece.data
        if piece.first:
            self._channel, self._rest = -1, b""
        if self._channel < 0 and data:
            self._channel = data[0] - ord("0") if self._base64 else data[0]
            data = data[1:]
        if self._base64:
            data = self._decoded(data, last=piece.last)
        if not data:
            return None
        if self._channel == CLOSE_CHANNEL and self._closes:
            return Chunk(data[0], b"")
        return Chunk(self._channel, data)

    def _decoded(self, data: bytes, *, last: bool) -> bytes:
        text = self._rest + data
        whole = len(text) if last else len(text) // 4 * 4
        self._rest = text[whole:]
        try:
            return base64.b64decode(text[:whole] + b"=" * (-whole % 4))
        except binascii.Error as error:
            raise ChannelsClosed("a message is not base64") from error


class ChannelSocket:
    """The server's end: one task receives, any number may send."""

    def __init__(self, wire: Wire, protocol: str) -> None:
        self._wire = wire
        self._socket = websocket.WebSocket(client=False)
        self._base64 = "base64" in protocol
        self._reader = MessageReader(base64_text=self._base64, closes=protocol.startswith("v5."))

    async def receive(self) -> list[Chunk] | None:
        """Return the next chunks, maybe none; None at the end. Raises ChannelsClosed."""
        if self._socket.closed or not (data := await self._wire.read()):
            return None
        try:
            events = self._socket.receive(data)
        except websocket.WebSocketError as error:
            await self._flush()
            raise ChannelsClosed(str(error)) from error
        await self._flush()
        chunks = (self._reader.feed(event) for event in events if isinstance(event, websocket.Piece))
        return [chunk for chunk in chunks if chunk is not None]

    async def send(self, channel: int, data: bytes) -> None:
        """Send one message. Raises ChannelsClosed."""
        if self._base64:
            self._socket.send(b"%d" % channel + base64.b64encode(data), text=True)
        else:
            self._socket.send(bytes((channel,)) + data)
        await self._flush()

    async def close(self) -> None:
        """End in order: say so and wait a moment for the client's Close."""
        self._socket.close()
        with suppress(ChannelsClosed, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._flush()
                while await self.receive() is not None:
                    pass

    async def _flush(self) -> None:
        out = self._socket.take()
        try:
            if out:
                await self._wire.write(out)
        except ConnectionError as error:
            raise ChannelsClosed(str(error)) from error

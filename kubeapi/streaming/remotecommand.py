"""exec and attach for a client: Kubernetes' remote command protocol over WebSocket or SPDY, as ``Channels``.

SPDY: one stream per channel, named by its streamType header. ERROR carries a Status (v4, v5) or its sentence (before).
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from kubeapi.streaming import spdy
from kubeapi.streaming.channel_socket import ChannelSocket
from kubeapi.streaming.spdy_session import SpdySession, Wire
from proto.calls import exit_status
from proto.kit.channels import ERROR, RESIZE, STDERR, STDIN, STDOUT, ChannelsClosed, Chunk

SOCKET_PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v5.base64.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
SPDY_PROTOCOLS = (*(f"v{n}.channel.k8s.io" for n in (5, 4, 3, 2)), "channel.k8s.io")
STREAM_TYPES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
MAX_RESIZE_BYTES = 4 << 10
STREAMS_TIMEOUT_S = 30.0  # for a client to open all the streams that it announced


def status_words(protocol: str, status: bytes) -> bytes:
    """Return what ``protocol`` says on its error channel: the whole Status since v4, before it the sentence of a failure."""
    if protocol.startswith(("v4.", "v5.")):
        return status
    try:
        said = msgspec.json.decode(status)
    except msgspec.DecodeError:
        return status
    if not isinstance(said, dict) or said.get("status") == "Success":
        return b""
    return str(said.get("message", "")).encode()


def failure(message: str) -> bytes:
    """Return the Status for a call that broke in the middle."""
    status = {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}
    return msgspec.json.encode(status)


class Sizes:
    """Cut a byte stream of JSON objects into one chunk each, whatever pieces it came in."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, data: bytes) -> list[Chunk]:
        """Raises ChannelsClosed for what is no terminal size."""
        self._text = (self._text + data.decode("utf-8", "replace")).lstrip()
        found: list[Chunk] = []
        while self._text:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text)
            except ValueError:
                break
            found.append(Chunk(RESIZE, msgspec.json.encode(value)))
            self._text = self._text[end:].lstrip()
        if len(self._text) > MAX_RESIZE_BYTES:
            raise ChannelsClosed("the resize channel carries no terminal size")
        return found


class _Status:
    """What was said on the error channel: one Status, before everything ends."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self.said = False

    def word(self, data: bytes) -> bytes:
        self.said = True
        return status_words(self._protocol, data)

    def last_word(self, error: str) -> bytes:
        """Return what must still be said at the end."""
        if self.said:
            return b""
        return self.word(failure(error) if error else msgspec.json.encode(exit_status(0)))


class SocketChannels:
    """The client's end of exec or attach over a WebSocket."""

    def __init__(self, wire: Wire, protocol: str) -> None:
        self._socket = ChannelSocket(wire, protocol)
        self._status = _Status(protocol)
        self._chunks: deque[Chunk] = deque()
        self._sizes = Sizes()
        self._closed = False

    async def greet(self, channel: int) -> None:
        """Send an empty message: some clients wait for it as the sign that the other side is there."""
        await self._socket.send(channel, b"")

    async def read(self) -> Chunk | None:
        while not self._chunks:
            received = await self._socket.receive()
            if received is None:
                return None
            for chunk in received:
                if chunk.channel == STDIN:
                    self._chunks.append(chunk)
                elif chunk.channel == RESIZE:
                    self._chunks += self._sizes.feed(chunk.data)
        return self._chunks.popleft()

    async def write(self, channel: int, data: bytes) -> None:
        if channel == ERROR:
            data = self._status.word(data)
        if data:
            await self._socket.send(channel, data)

    async def finish(self, channel: int) -> None:
        """Nothing to say: clients know the end of output by the Status and the Close."""

    async def close(self, error: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        word = self._status.last_word(error)
        with suppress(ChannelsClosed):
            if word:
                await self._socket.send(ERROR, word)
        await self._socket.close()


class SpdyChannels:
    """The client's end of exec or attach over SPDY. ``accept`` first."""

    def __init__(self, wire: Wire, protocol: str) -> None:
        self._session = SpdySession(wire)
        self._status = _Status(protocol)
        self._streams: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}  # stream -> channel
        self._chunks: deque[tuple[Chunk, int, int]] = deque()  # with the stream and the bytes that it is to be credited
        self._sizes = Sizes()
        self._left = self._closed = False

    async def accept(self, expected: set[int]) -> None:
        """Wait until the client has opened a stream for each channel. Raises ChannelsClosed."""
        try:
            async with asyncio.timeout(STREAMS_TIMEOUT_S):
                while not expected <= self._streams.keys():
                    if self._left or self._session.ended:
                        raise ChannelsClosed("the client left before it had opened its streams")
                    await self._pull()
        except TimeoutError as error:
            raise ChannelsClosed("the client did not open its streams in time") from error

    async def read(self) -> Chunk | None:
        while not self._chunks:
            if self._left or self._session.ended:
                return None
            await self._pull()
        chunk, stream, size_bytes = self._chunks.popleft()
        if size_bytes:
            await self._session.consumed(stream, size_bytes)
        return chunk

    async def write(self, channel: int, data: bytes) -> None:
        if channel == ERROR:
            data = self._status.word(data)
        stream = self._streams.get(channel)
        if stream is not None and data:
            await self._session.send(stream, data)

    async def finish(self, channel: int) -> None:
        stream = self._streams.get(channel)
        if stream is not None and self._session.spdy.writable(stream):
            await self._session.send(stream, b"", fin=True)

    async def close(self, error: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(ChannelsClosed):
            word = self._status.last_word(error)
            if word and ERROR in self._streams:
                await self._session.send(self._streams[ERROR], word)
            for channel in (STDOUT, STDERR, ERROR, STDIN, RESIZE):
                await self.finish(channel)
            await self._session.goodbye()

    async def _pull(self) -> None:
        for event in await self._session.pull():
            if isinstance(event, spdy.Opened):
                self._open(event)
            elif isinstance(event, spdy.Data) and event.stream in self._channels:
                self._data(event)
            elif isinstance(event, spdy.Reset) and self._channels.get(event.stream) == STDIN:
                self._chunks.append((Chunk(STDIN, b""), 0, 0))
            elif isinstance(event, spdy.Gone):
                self._left = True
        await self._session.flush()

    def _open(self, event: spdy.Opened) -> None:
        channel = STREAM_TYPES.get(event.headers.get("streamtype", ""))
        if channel is None or channel in self._streams:
            self._session.spdy.reset(event.stream)
            return
        self._session.spdy.reply(event.stream)
        self._streams[channel], self._channels[event.stream] = event.stream, channel

    def _data(self, event: spdy.Data) -> None:
        channel = self._channels[event.stream]
        if channel == STDIN:
            if event.data:
                self._chunks.append((Chunk(STDIN, event.data), event.stream, len(event.data)))
            if event.fin:
                self._chunks.append((Chunk(STDIN, b""), 0, 0))
            return
        self._session.spdy.consumed(event.stream, len(event.data))
        if channel == RESIZE:
            self._chunks += [(chunk, 0, 0) for chunk in self._sizes.feed(event.data)]


def expected_channels(options: Mapping[str, bool], protocol: str) -> set[int]:
    """Return the channels for which a SPDY client opens streams."""
    wanted = {ERROR, *(STREAM_TYPES[name] for name in ("stdin", "stdout", "stderr") if options[name])}
    if options["tty"]:
        wanted.discard(STDERR)
        if protocol.startswith(("v3.", "v4.", "v5.")):
            wanted.add(RESIZE)
    return wanted

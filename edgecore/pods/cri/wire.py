"""One gRPC connection to a CRI socket: calls with deadlines and a bound on answers, errors in the words of the port.

A hanging or missing runtime is RuntimeAway; the next call connects again by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, Stream, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from edgecore.pods.runtime import NoSuch, RuntimeAway, RuntimeRefused
from proto.gen import cri_pb2 as pb

MAX_ANSWER_BYTES = 16 << 20  # what kubelet allows too
QUICK_S = 10.0  # lists and statuses: a runtime that needs longer hangs
WINDOW_BYTES = 256 << 10  # of HTTP/2; answers are small, and 4 MiB a stream would be memory
NOT_YET = "not initialized yet"  # containerd serves the socket before its CRI plugin is ready

Answer = TypeVar("Answer", bound=Message)


class Unimplemented(RuntimeRefused):
    """The runtime does not have this call."""

    code = "Unimplemented"


class TooLong(RuntimeAway):
    """The runtime itself ended the call at a deadline."""

    code = "TooLong"


class Connection:
    """Calls by name. Without a deadline of its own a call is a quick one: when it times out the connection is dropped too,
    since whatever holds it is stuck.
    """

    def __init__(self, socket: Path, quick_s: float = QUICK_S) -> None:
        self.socket = socket
        self.quick_s = quick_s
        self._missing: set[str] = set()
        self._channel: Channel | None = None
        self._hung = 0  # how often a connection was given up since nothing came; it takes other calls with it

    async def call(self, name: str, request: Message, answer: type[Answer], deadline_s: float = 0) -> Answer:
        """Return the answer of a RuntimeService call. Raises RuntimeAway, RuntimeRefused, NoSuch, Unimplemented, TooLong."""
        return await self._unary(f"/runtime.v1.RuntimeService/{name}", request, answer, deadline_s)

    async def image_call(self, name: str, request: Message, answer: type[Answer], deadline_s: float = 0) -> Answer:
        """Return the answer of an ImageService call. Raises as ``call``."""
        return await self._unary(f"/runtime.v1.ImageService/{name}", request, answer, deadline_s)

    def lacks(self, name: str) -> bool:
        """Whether the runtime once said that it does not have the RuntimeService call ``name``."""
        return f"/runtime.v1.RuntimeService/{name}" in self._missing

    def note_missing(self, name: str) -> None:
        """Remember that the RuntimeService call ``name`` is of no use with this runtime."""
        self._missing.add(f"/runtime.v1.RuntimeService/{name}")

    async def close(self) -> None:
        self._drop()

    async def _unary(self, path: str, request: Message, answer: type[Answer], deadline_s: float) -> Answer:
        quick, deadline_s = not deadline_s, deadline_s or self.quick_s
        with self._translated(path, quick=quick):
            async with asyncio.timeout(deadline_s):
                method = UnaryUnaryMethod(self._connected(), path, type(request), answer)
                async with method.open(timeout=deadline_s) as stream:
                    await stream.send_message(request, end=True)
                    _bound(stream)
                    received = await stream.recv_message()
        if received is None:
            raise RuntimeRefused(f"the container runtime answered {path.rpartition('/')[2]} with nothing")
        return received

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Callable[[], Awaitable[pb.ContainerEventResponse | None]]]:
        """Open GetContainerEvents; yields a function that waits for the next event (None: the runtime ended it).

        Raises as ``call``, also inside the block.
        """
        path = "/runtime.v1.RuntimeService/GetContainerEvents"
        with self._translated(path, quick=False):
            method = UnaryStreamMethod(self._connected(), path, pb.GetEventsRequest, pb.ContainerEventResponse)
            async with method.open() as stream:
                async with asyncio.timeout(self.quick_s):
                    await stream.send_message(pb.GetEventsRequest(), end=True)
                _bound(stream)
                yield stream.recv_message
                await stream.cancel()

    def _connected(self) -> Channel:
        if self._channel is None:
            windows = Configuration(http2_connection_window_size=WINDOW_BYTES, http2_stream_window_size=WINDOW_BYTES)
            self._channel = Channel(path=str(self.socket), config=windows)
        return self._channel

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @contextmanager
    def _translated(self, path: str, *, quick: bool) -> Iterator[None]:
        name, hung = path.rpartition("/")[2], self._hung
        silent = f"the container runtime does not answer {name} at {self.socket}"
        try:
            yield
        except GRPCError as error:
            if error.status is Status.UNIMPLEMENTED:
                self._missing.add(path)
            raise _refusal(name, error) from error
        except TimeoutError as error:
            if quick:
                self._hung += 1
                self._drop()
            raise RuntimeAway(silent) from error
        except (OSError, StreamTerminatedError, ProtocolError) as error:
            if self._hung != hung:
                raise RuntimeAway(silent) from error
            raise RuntimeAway(f"no container runtime at {self.socket}: {error}") from error


def _refusal(name: str, error: GRPCError) -> Exception:
    text = error.message or error.status.name
    if error.status is Status.NOT_FOUND:
        return NoSuch(text)
    if error.status is Status.UNIMPLEMENTED:
        return Unimplemented(f"this container runtime has no {name}")
    if error.status is Status.DEADLINE_EXCEEDED:
        return TooLong(text)
    if error.status is Status.UNAVAILABLE or NOT_YET in text:
        return RuntimeAway(f"the container runtime is not ready: {text}")
    return RuntimeRefused(text)


def _bound(stream: Stream[Any, Any]) -> None:
    """Refuse an answer by its length prefix: grpclib itself would gather up to 4 GiB."""
    wire: Any = stream._stream  # noqa: SLF001  there is no public door
    receive = wire.recv_data

    async def bounded(size: int) -> bytes:
        if size > MAX_ANSWER_BYTES:
            raise RuntimeRefused(f"the container runtime's answer has {size} bytes; {MAX_ANSWER_BYTES} are taken")
        return await receive(size)  # type: ignore[no-any-return]

    wire.recv_data = bounded

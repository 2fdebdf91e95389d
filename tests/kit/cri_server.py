"""A CRI server of a few calls, for what one real runtime cannot show: calls that are missing, answers that are too large.

``answers`` maps a call's name to what answers it; a call that is not there is UNIMPLEMENTED, as gRPC servers say it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from proto.gen import cri_pb2 as pb

Answer = Callable[[Any], Any]  # from the request; may raise GRPCError
EVENTS = "GetContainerEvents"


def unimplemented(_: Any) -> Any:
    raise GRPCError(Status.UNIMPLEMENTED, "unknown method")


class CriServer:
    """``calls`` counts what came, by name; ``events`` are sent to whoever listens."""

    def __init__(self, answers: dict[str, Answer], *, has_events: bool = False) -> None:
        self.answers = dict(answers)
        self.has_events = has_events
        self.calls: Counter[str] = Counter()
        self.events: asyncio.Queue[pb.ContainerEventResponse | None] = asyncio.Queue()

    def __mapping__(self) -> dict[str, Handler]:
        handlers = {}
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                types = [getattr(pb, kind.name) for kind in (method.input_type, method.output_type)]
                streams = method.name == EVENTS
                handle = self._stream if streams else self._unary(method.name)
                cardinality = Cardinality.UNARY_STREAM if streams else Cardinality.UNARY_UNARY
                handlers[f"/{service.full_name}/{method.name}"] = Handler(handle, cardinality, *types)
        return handlers

    def _unary(self, name: str) -> Callable[[Stream[Any, Any]], Any]:
        async def handle(stream: Stream[Any, Any]) -> None:
            self.calls[name] += 1
            answer = self.answers.get(name, unimplemented)
            await stream.send_message(answer(await stream.recv_message()))

        return handle

    async def _stream(self, stream: Stream[Any, Any]) -> None:
        self.calls[EVENTS] += 1
        await stream.recv_message()
        if not self.has_events:
            unimplemented(None)
        while (event := await self.events.get()) is not None:
            await stream.send_message(event)


class _Mortal(Server):
    """grpclib's server keeps its connections when it is closed; a dead process does not."""

    def __init__(self, handlers: list[Any]) -> None:
        super().__init__(handlers)
        self.protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        self.protocols.append(super()._protocol_factory())
        return self.protocols[-1]


@asynccontextmanager
async def serving(server: CriServer, socket: Path) -> AsyncIterator[CriServer]:
    """Serve at ``socket``; afterwards it is as if the process had died."""
    grpc = _Mortal([server])
    await grpc.start(path=str(socket))
    try:
        yield server
    finally:
        grpc.close()
        for protocol in grpc.protocols:
            protocol.connection.close()
        await grpc.wait_closed()

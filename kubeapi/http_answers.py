"""What a handler may answer with: a whole answer, one in pieces, or the connection itself."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from kubeapi.http_tunnel import Tunnel
from kubeapi.http_wire import Reply


@dataclass(slots=True)
class Response(Reply):
    """A whole answer. ``body`` is compressed on the way out when it is large and the client accepts gzip."""

    body: bytes = b""


@dataclass(slots=True)
class StreamResponse(Reply):
    """An answer in pieces, each written at once. The iterator is closed when the client goes or is too slow.

    ``patient``: a client that reads nothing for long is not cut (a person who pauses ``logs -f``).
    """

    chunks: AsyncIterator[bytes] | None = None
    patient: bool = False


@dataclass(slots=True)
class Upgrade(Reply):
    """101: ``serve`` gets the raw connection, which ends when it returns. Only an answer to a request that asked for it.

    ``serve`` is cancelled when the client goes. A client that reads nothing is not cut, it only gets no more.
    """

    protocol: str = ""  # for the Upgrade header
    serve: Callable[[Tunnel], Awaitable[None]] | None = None


Answer = Response | StreamResponse | Upgrade


def plain_refusal(status: int, message: str) -> Response:
    """Answer a request that never reached the handler with one line of text."""
    return Response(status, "text/plain; charset=utf-8", body=message.encode() + b"\n")

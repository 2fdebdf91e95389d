"""The API server's side of a kubelet endpoint: find it in the Node, ask over TLS, read the answer in bounded pieces."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import httptools

from kubeapi.errors import ApiError
from proto.kit.errors import Retryable

# As kube-apiserver's --kubelet-preferred-address-types.
ADDRESS_TYPES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")
DEFAULT_PORT = 10250
READ_BYTES = 64 << 10
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
HOST = re.compile(
    r"[A-Za-z0-9]([-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?|::1?"
)  # a node says it: it must stay inside its line

Json = dict[str, Any]


class KubeletAway(Retryable):
    """The endpoint cannot be reached now."""

    code = "KubeletAway"


@dataclass(frozen=True, slots=True)
class KubeletAccess:
    """How kubelets are asked. ``context`` carries the client certificate; None is plain TCP, for tests.

    ``dial``: the host to connect to instead of the node's address, which then only goes into Host and SNI; "" is none.
    """

    context: ssl.SSLContext | None
    address_types: tuple[str, ...] = ADDRESS_TYPES
    dial: str = ""
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 45.0  # to the head of the answer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node's kubelet listens."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(node: Json, address_types: tuple[str, ...]) -> Endpoint:
    """Return the kubelet endpoint of a Node. Raises 503 when it says none."""
    status = node.get("status") or {}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or DEFAULT_PORT
    addresses = [a for a in status.get("addresses") or () if isinstance(a, dict) and a.get("address")]
    for wanted in address_types:
        for address in addresses:
            if address.get("type") == wanted and HOST.fullmatch(str(address["address"])):
                return Endpoint(str(address["address"]), int(port))
    name = node["metadata"]["name"]
    text = f"node {name} has no address of the types {', '.join(address_types)}"
    raise ApiError(503, "ServiceUnavailable", text)


class _Head:
    """What httptools finds."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.head_done = self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done and len(self.headers) < MAX_HEADERS:
            self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.head_done = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.done = True


class Source(Protocol):
    """Where an answer's bytes come from: a socket, or a connection inside another one."""

    async def read(self, size: int, /) -> bytes: ...


class Connection(Protocol):
    """What an answer is written to, and closed with."""

    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class KubeletAnswer:
    """An answer whose head has arrived. ``body`` may be read once; an upgraded one is ``read`` and written raw."""

    def __init__(self, reader: Source, writer: Connection) -> None:
        self._reader, self.writer = reader, writer
        self._found = _Head()
        self._parser = httptools.HttpResponseParser(self._found)
        self._rest = b""
        self.status = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        return self._found.headers

    def header(self, name: str) -> str:
        return next((value for key, value in self._found.headers if key == name), "")

    async def begin(self) -> None:
        """Read the head. Raises KubeletAway."""
        size = 0
        while not self._found.head_done:
            data = await self._reader.read(READ_BYTES)
            size += len(data)
            if not data or size > MAX_HEAD_BYTES + READ_BYTES:
                raise KubeletAway("the kubelet's answer has no head")
            self._feed(data)
        self.status = int(self._parser.get_status_code())

    async def read(self) -> bytes:
        """Return raw bytes after an upgrade, ``b""`` at the end."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        try:
            return await self._reader.read(READ_BYTES)
        except (OSError, ssl.SSLError):
            return b""

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body as they come. Raises KubeletAway when it breaks off."""
        lasting = any(name in ("content-length", "transfer-encoding") for name, _ in self.headers)
        while True:
            for piece in self._found.pieces:
                yield piece
            self._found.pieces.clear()
            if self._found.done:
                return
            try:
                data = await self._reader.read(READ_BYTES)
            except (OSError, ssl.SSLError) as error:
                raise KubeletAway(f"the kubelet's answer broke off: {error}") from error
            if not data:
                if lasting:
                    raise KubeletAway("the kubelet's answer broke off")
                return
            self._feed(data)

    async def text(self, limit_bytes: int) -> bytes:
        """Return the whole body. Raises KubeletAway, 502 when it is larger."""
        out = bytearray()
        async for piece in self.body():
            out += piece
            if len(out) > limit_bytes:
                raise ApiError(502, "InternalError", f"the kubelet's answer is larger than {limit_bytes} bytes")
        return bytes(out)

    def close(self) -> None:
        self.writer.close()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
            self._found.head_done = True
        except httptools.HttpParserError as error:
            raise KubeletAway(f"the kubelet's answer is not HTTP: {error}") from error


async def ask(
    access: KubeletAccess, at: Endpoint, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b""
) -> KubeletAnswer:
    """Send one request and return the answer once its head is here. ``path`` carries the query. Raises KubeletAway."""
    try:
        async with asyncio.timeout(access.connect_timeout_s):
            reader, writer = await asyncio.open_connection(
                access.dial or at.host,
                at.port,
                ssl=access.context,
                server_hostname=at.host if access.context is not None else None,
                limit=READ_BYTES,
            )
    except (OSError, TimeoutError, ssl.SSLError, UnicodeError) as error:
        reason = str(error) or "it does not answer"
        raise KubeletAway(f"the kubelet at {at.authority} cannot be reached: {reason}") from error
    answer = KubeletAnswer(reader, writer)
    try:
        async with asyncio.timeout(access.answer_timeout_s):
            lines = [f"{method} {path} HTTP/1.1", f"Host: {at.authority}"]
            lines += [f"{name}: {value}" for name, value in headers]
            lines += [f"Content-Length: {len(body)}", "", ""]
            writer.write("\r\n".join(lines).encode("latin-1", "replace") + body)
            await answer.begin()
    except (OSError, TimeoutError, ssl.SSLError) as error:
        writer.close()
        reason = str(error) or "it does not answer"
        raise KubeletAway(f"the kubelet at {at.authority} does not answer: {reason}") from error
    except BaseException:
        writer.close()
        raise
    return answer

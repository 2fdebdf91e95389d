"""Serve one Call to an HTTP client: logs as a stream, exec, attach and port-forward behind an upgrade.

``serve_call`` takes kubelet's query options and the API's, which mean the same under other names, and negotiates what the
client speaks. What the node refuses is refused before the upgrade, as an HTTP answer.
"""

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Literal

from kubeapi.errors import ApiError, bad_request
from kubeapi.http import Answer, Request, Response, StreamResponse, Upgrade
from kubeapi.http_tunnel import Tunnel
from kubeapi.http_wire import StreamCut
from kubeapi.stored import encode
from kubeapi.streaming import portforward, portforward_socket, remotecommand
from kubeapi.streaming.spdy_session import WebSocketWire, Wire
from kubeapi.streaming.websocket import accept_key
from proto.calls import Call, CallRefused, OpenCall
from proto.kit.channels import ERROR, STDERR, STDOUT, Channels, ChannelsClosed, pipe
from proto.kit.errors import Retryable

Streamed = Literal["logs", "exec", "attach", "portforward"]
TRUE = ("1", "true", "True", "TRUE", "t", "T")
SPDY = "SPDY/3.1"
TEXT = "text/plain; charset=utf-8"
MAX_COMMAND_BYTES = 48 << 10

Query = dict[str, list[str]]


async def serve_call(
    request: Request,
    kind: Streamed,
    namespace: str,
    pod: str,
    container: str,
    open_call: OpenCall,
    *,
    plain: bool = False,
) -> Answer:
    """Answer with what the node streams. Refusals are Status objects, or lines of text when ``plain``, as kubelet's are."""
    try:
        query = request.query()
        if kind == "logs":
            return await _logs(_logs_call(query, namespace, pod, container), open_call)
        if kind == "portforward":
            return _portforward(request, query, Call("portforward", namespace, pod), open_call)
        return await _command(request, _command_call(kind, query, namespace, pod, container), open_call)
    except (ApiError, CallRefused) as error:
        return _refusal(error.status, error.reason, str(error), plain=plain)
    except Retryable as error:
        return _refusal(503, "ServiceUnavailable", str(error), plain=plain)
    except ValueError as error:
        return _refusal(400, "BadRequest", f"the query has too many parameters: {error}", plain=plain)


def _refusal(status: int, reason: str, message: str, *, plain: bool) -> Response:
    if plain:
        return Response(status, TEXT, body=message.encode() + b"\n")
    return Response(status, body=encode(ApiError(status, reason, message).body()))


# logs


def _logs_call(query: Query, namespace: str, pod: str, container: str) -> Call:
    return Call(
        "logs",
        namespace,
        pod,
        container or _text(query, "container"),
        stdout=True,
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        tail_lines=_number(query, "tailLines"),
        since_seconds=_number(query, "sinceSeconds"),
        since_time=_text(query, "sinceTime"),
        limit_bytes=_number(query, "limitBytes"),
    )


async def _logs(call: Call, open_call: OpenCall) -> StreamResponse:
    channels = await open_call(call)
    headers = [("Cache-Control", "no-cache, no-store"), ("X-Content-Type-Options", "nosniff")]
    return StreamResponse(200, TEXT, headers=headers, chunks=_Lines(channels), patient=True)


class _Lines:
    """The pieces of a log. Closes what it reads from also when nothing of it was read."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._broken = ""

    def __aiter__(self) -> "_Lines":
        return self

    async def __anext__(self) -> bytes:
        if self._broken:
            raise StreamCut(self._broken)
        try:
            while (chunk := await self._channels.read()) is not None:
                if chunk.channel == STDOUT and chunk.data:
                    return chunk.data
        except ChannelsClosed as error:
            self._broken = str(error)
            return f"\nthe log ends here: {error}\n".encode()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await self._channels.close()


# exec and attach


def _command_call(kind: Literal["exec", "attach"], query: Query, namespace: str, pod: str, container: str) -> Call:
    tty = _flag(query, "tty")
    call = Call(
        kind,
        namespace,
        pod,
        container or _text(query, "container"),
        command=query.get("command", []) if kind == "exec" else [],
        stdin=_flag(query, "stdin", "input"),
        stdout=_flag(query, "stdout", "output"),
        stderr=_flag(query, "stderr", "error") and not tty,  # a terminal has one output
        tty=tty,
    )
    if kind == "exec" and not call.command:
        raise bad_request("you must specify at least one command for the container")
    if sum(map(len, call.command)) > MAX_COMMAND_BYTES:
        raise bad_request(f"the command is longer than {MAX_COMMAND_BYTES} bytes")
    if not (call.stdin or call.stdout or call.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return call


async def _command(request: Request, call: Call, open_call: OpenCall) -> Upgrade:
    if asks_for(request, "websocket"):
        protocol = _subprotocol(request, remotecommand.SOCKET_PROTOCOLS)
        return _websocket(request, protocol, _ServeSocket(call, protocol, await open_call(call)))
    protocol, headers = _spdy_protocol(request, remotecommand.SPDY_PROTOCOLS)
    return Upgrade(101, headers=headers, protocol=SPDY, serve=_ServeSpdy(call, protocol, await open_call(call)))


class _ServeSocket:
    def __init__(self, call: Call, protocol: str, there: Channels) -> None:
        self._call, self._protocol, self._there = call, protocol, there

    async def __call__(self, wire: Wire) -> None:
        client = remotecommand.SocketChannels(wire, self._protocol)
        first = STDOUT if self._call.stdout else STDERR if self._call.stderr else ERROR
        try:
            await client.greet(first)
        except ChannelsClosed:
            await self._there.close()
            return
        await pipe(client, self._there)


class _ServeSpdy:
    def __init__(self, call: Call, protocol: str, there: Channels) -> None:
        self._call, self._protocol, self._there = call, protocol, there

    async def __call__(self, wire: Wire) -> None:
        client = remotecommand.SpdyChannels(wire, self._protocol)
        call = self._call
        options = {"stdin": call.stdin, "stdout": call.stdout, "stderr": call.stderr, "tty": call.tty}
        try:
            await client.accept(remotecommand.expected_channels(options, self._protocol))
        except ChannelsClosed as error:
            await self._there.close()
            await client.close(str(error))
            return
        await pipe(client, self._there)


# port-forward


def _portforward(request: Request, query: Query, call: Call, open_call: OpenCall) -> Upgrade:
    async def dial(port: int) -> Channels:
        return await open_call(Call("portforward", call.namespace, call.pod, port=port))

    async def spdy(wire: Wire) -> None:
        await portforward.serve_spdy(wire, dial)

    async def tunnel(wire: Wire) -> None:
        await portforward.serve_spdy(WebSocketWire(wire), dial)

    if not asks_for(request, "websocket"):
        _, headers = _spdy_protocol(request, (portforward.SPDY_PROTOCOL,))
        return Upgrade(101, headers=headers, protocol=SPDY, serve=spdy)
    protocol = _subprotocol(request, (portforward.TUNNEL_PROTOCOL, *portforward_socket.SOCKET_PROTOCOLS))
    if protocol == portforward.TUNNEL_PROTOCOL:
        return _websocket(request, protocol, tunnel)
    ports = _ports(query)

    async def older(wire: Wire) -> None:
        await portforward_socket.serve_socket(wire, protocol, ports, dial)

    return _websocket(request, protocol, older)


def _ports(query: Query) -> list[int]:
    listed = ",".join([*query.get("ports", []), *query.get("port", [])]).split(",")
    ports = [portforward.port_number(text) for text in listed]
    if not all(ports):
        raise bad_request("ports must name the ports to forward, each between 1 and 65535")
    if len(ports) > portforward_socket.MAX_PORTS:
        raise bad_request(f"at most {portforward_socket.MAX_PORTS} ports can be forwarded at once")
    return ports


# Negotiation


def asks_for(request: Request, protocol: str) -> bool:
    """Whether the request asks to be upgraded to ``protocol``."""
    connection = request.headers.get("connection", "").lower()
    offered = [part.strip().lower() for part in request.headers.get("upgrade", "").split(",")]
    return "upgrade" in connection and protocol.lower() in offered


def _websocket(request: Request, protocol: str, serve: Callable[[Tunnel], Awaitable[None]]) -> Upgrade:
    headers = [("Sec-WebSocket-Accept", accept_key(request.headers["sec-websocket-key"]))]
    if protocol:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    return Upgrade(101, headers=headers, protocol="websocket", serve=serve)


def _subprotocol(request: Request, known: tuple[str, ...]) -> str:
    """Return the first protocol of the client's that we know; "" when it names none. Raises 400, 403, 426."""
    if request.method != "GET" or request.headers.get("sec-websocket-version") != "13":
        raise ApiError(426, "BadRequest", "a WebSocket is opened by GET with Sec-WebSocket-Version: 13")
    try:
        key = b64decode(request.headers.get("sec-websocket-key", ""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise bad_request("Sec-WebSocket-Key must be 16 bytes in base64")
    offered = _listed(request.headers.get("sec-websocket-protocol", ""))
    return _pick(offered, known)


def _spdy_protocol(request: Request, known: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """Return the protocol and the headers that say so. Raises 400, 403."""
    if not asks_for(request, SPDY):
        raise bad_request("Upgrade request required: a WebSocket or SPDY/3.1")
    offered = _listed(request.headers.get("x-stream-protocol-version", ""))
    protocol = _pick(offered, known)
    return protocol, [("X-Stream-Protocol-Version", protocol)] if protocol else []


def _pick(offered: list[str], known: tuple[str, ...]) -> str:
    if not offered:
        return ""
    for protocol in offered:
        if protocol in known:
            return protocol
    raise ApiError(403, "Forbidden", f"none of the protocols {', '.join(offered)[:200]} is spoken here")


def _listed(header: str) -> list[str]:
    return [part.strip() for part in header.split(",") if part.strip()]


def _text(query: Query, name: str) -> str:
    return query.get(name, [""])[0]


def _flag(query: Query, *names: str) -> bool:
    return any(_text(query, name) in TRUE for name in names)


def _number(query: Query, name: str) -> int | None:
    text = _text(query, name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise bad_request(f'invalid value "{text[:40]}" for parameter {name}: must be a whole number')
    return int(text)

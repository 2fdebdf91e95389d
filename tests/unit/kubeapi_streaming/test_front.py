"""logs, exec, attach and port-forward for the clients there are: each protocol they speak, and what goes wrong."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from kubeapi.streaming.spdy import Data, Event, Replied, Reset, SpdyConnection
from tests.kit.wait import eventually
from tests.unit.kubeapi_streaming.node import ShellNode, serving_node

Place = tuple[ShellNode, int]
TIMEOUT_S = 10


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with serving_node() as opened:
        yield opened


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session:
        yield session


class Socket:
    """An exec over a WebSocket, read to its end."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def all(self) -> dict[int, bytes]:
        """Return what came per channel until the Close."""
        found: dict[int, bytearray] = {}
        async for message in self.ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                channel, data = int(message.data[0]), base64.b64decode(message.data[1:])
            else:
                channel, data = message.data[0], message.data[1:]
            found.setdefault(channel, bytearray()).extend(data)
        return {channel: bytes(data) for channel, data in found.items()}


def address(place: Place, path: str) -> str:
    return f"http://127.0.0.1:{place[1]}{path}"


async def socket(http: aiohttp.ClientSession, place: Place, path: str, *protocols: str) -> Socket:
    return Socket(await http.ws_connect(address(place, path), protocols=protocols))


@pytest.fixture
async def spdy(place: Place) -> AsyncIterator["Dial"]:
    """Open SPDY clients that end with the test."""
    opened: list[Spdy] = []

    async def dial(path: str, *protocols: str) -> Spdy:
        opened.append(await Spdy.open(place, path, *protocols))
        return opened[-1]

    yield dial
    for client in opened:
        client.writer.close()


class Spdy:
    """A SPDY client: what kubectl's executor and port-forwarder do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self.reader, self.writer, self.head = reader, writer, head
        self.spdy = SpdyConnection(client=True)
        self.events: list[Event] = []

    @classmethod
    async def open(cls, place: Place, path: str, *protocols: str) -> "Spdy":
        reader, writer = await asyncio.open_connection("127.0.0.1", place[1])
        offered = "".join(f"X-Stream-Protocol-Version: {protocol}\r\n" for protocol in protocols)
        upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{upgrade}{offered}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
        return cls(reader, writer, head.decode())

    async def stream(self, **headers: str) -> int:
        stream = self.spdy.open(headers)
        await self.until(lambda: any(isinstance(e, Replied | Reset) and e.stream == stream for e in self.events))
        return stream

    async def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        self.spdy.send(stream, data, fin=fin)
        self.writer.write(self.spdy.take())
        await self.writer.drain()

    async def until(self, condition: Any) -> None:
        self.writer.write(self.spdy.take())
        while not condition():
            data = await asyncio.wait_for(self.reader.read(65536), TIMEOUT_S)
            assert data, self.events
            self.events += self.spdy.receive(data)

    def of(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, Data) and e.stream == stream)

    def over(self, *streams: int) -> bool:
        ended = {e.stream for e in self.events if isinstance(e, Data) and e.fin}
        return ended >= set(streams)


Dial = Callable[..., Awaitable[Spdy]]

# logs


async def test_logs_are_text_and_end_when_the_node_is_done(place: Place, http: aiohttp.ClientSession) -> None:
    async with http.get(address(place, "/logs/web/app?tailLines=3&timestamps=true")) as answer:
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert await answer.text() == "line 0\nline 1\nline 2\n"
    call = place[0].calls[0]
    assert (call.pod, call.container, call.tail_lines, call.timestamps) == ("web", "app", 3, True)


async def test_followed_logs_arrive_at_once_and_end_with_the_client(place: Place, http: aiohttp.ClientSession) -> None:
    answer = await http.get(address(place, "/logs/web/app?follow=true"))
    assert await answer.content.readexactly(21) == b"line 0\nline 1\nline 2\n"
    assert place[0].running == 1
    answer.close()
    await eventually(lambda: place[0].running == 0)


async def test_a_log_that_breaks_says_why_and_does_not_look_whole(place: Place, http: aiohttp.ClientSession) -> None:
    async with http.get(address(place, "/logs/web/app?previous=true")) as answer:
        assert [await answer.content.readline() for _ in range(5)][-1] == b"the log ends here: the node went away\n"
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/logs/missing/app", 404, 'pods "missing" not found'),
        ("/logs/web/app?tailLines=x", 400, "parameter tailLines"),
        ("/exec/web/app?stdout=true", 400, "at least one command"),
        ("/exec/web/app?command=cat", 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/web/app?command=cat&stdout=1", 400, "Upgrade request required"),
        ("/portforward/web", 400, "Upgrade request required"),
    ],
)
async def test_a_refusal_is_a_status_with_one_sentence(
    place: Place, http: aiohttp.ClientSession, path: str, status: int, sentence: str
) -> None:
    """HTTP-4"""
    async with http.get(address(place, path)) as answer:
        assert answer.status == status
        assert sentence in (await answer.json())["message"]


# exec over WebSocket


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_exec_gives_output_errors_and_the_exit_code(
    place: Place, http: aiohttp.ClientSession, protocol: str
) -> None:
    ws = await socket(http, place, "/exec/web/app?command=fail&command=7&stdout=1&stderr=1", protocol)
    assert ws.ws.protocol == protocol
    status = json.loads((await ws.all())[3])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    both = await (await socket(http, place, "/exec/web/app?command=both&stdout=1&stderr=1", protocol)).all()
    assert (both[1], both[2], json.loads(both[3])["status"]) == (b"out", b"err", "Success")


async def test_v5_closes_stdin_and_the_command_ends(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/exec/web/app?command=cat&stdin=1&stdout=1", "v5.channel.k8s.io")
    await ws.ws.send_bytes(b"\x00hello")
    await ws.ws.send_bytes(b"\xff\x00")
    found = await ws.all()
    assert (found[1], json.loads(found[3])["status"]) == (b"hello", "Success")


async def test_base64_clients_are_answered_in_base64(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/exec/web/app?command=cat&stdin=1&stdout=1", "v5.base64.channel.k8s.io")
    await ws.ws.send_str("0" + base64.b64encode(b"hello \xff").decode())
    await ws.ws.send_str("0" + base64.b64encode(b"again").decode())
    await eventually(lambda: place[0].running == 1)
    message = await ws.ws.receive()
    assert message.data == "1"  # the greeting
    assert base64.b64decode((await ws.ws.receive()).data[1:]) == b"hello \xff"


async def test_the_first_protocol_says_only_the_sentence_of_a_failure(
    place: Place, http: aiohttp.ClientSession
) -> None:
    ws = await socket(http, place, "/exec/web/app?command=fail&command=2&stdout=1", "channel.k8s.io")
    assert (await ws.all())[3] == b"command terminated with non-zero exit code: exit code 2"


async def test_a_terminal_has_its_size_and_no_stderr(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/exec/web/app?command=size&stdin=1&stdout=1&stderr=1&tty=1", "v4.channel.k8s.io")
    await ws.ws.send_bytes(b'\x04{"Width":80,"Height":24}')
    assert json.loads((await ws.all())[1]) == {"Width": 80, "Height": 24}
    assert (place[0].calls[0].tty, place[0].calls[0].stderr) == (True, False)


async def test_a_container_that_breaks_is_a_failed_status(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/exec/web/app?command=break&stdout=1", "v5.channel.k8s.io")
    status = json.loads((await ws.all())[3])
    assert (status["status"], status["message"]) == ("Failure", "the container went away")


async def test_a_client_that_leaves_ends_the_command(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/exec/web/app?command=cat&stdin=1&stdout=1", "v5.channel.k8s.io")
    await eventually(lambda: place[0].running == 1)
    await ws.ws.close()
    await eventually(lambda: place[0].running == 0)


async def test_a_command_faster_than_its_reader_waits(place: Place, http: aiohttp.ClientSession) -> None:
    """HTTP-3"""
    ws = await socket(http, place, "/exec/web/app?command=flood&command=2000&stdout=1", "v5.channel.k8s.io")
    assert len((await ws.all())[1]) == 2000 * 32768


async def test_unknown_subprotocols_are_refused(place: Place, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await socket(http, place, "/exec/web/app?command=cat&stdout=1", "v9.channel.k8s.io")
    assert caught.value.status == 403
    assert place[0].calls == []


# exec over SPDY


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
async def test_exec_over_spdy_gives_output_and_status(spdy: Dial, protocol: str) -> None:
    client = await spdy("/exec/web/app?command=cat&input=1&output=1", "v99.x", protocol)
    assert f"X-Stream-Protocol-Version: {protocol}\r\n" in client.head
    error, stdin, stdout = [await client.stream(streamType=kind) for kind in ("error", "stdin", "stdout")]
    await client.send(stdin, b"hello")
    await client.send(stdin, b" you", fin=True)
    await client.until(lambda: client.over(error, stdout))
    assert client.of(stdout) == b"hello you"
    said = client.of(error)
    assert json.loads(said)["status"] == "Success" if protocol[:2] in ("v4", "v5") else said == b""


async def test_a_spdy_terminal_sends_sizes_in_any_pieces(spdy: Dial) -> None:
    client = await spdy("/exec/web/app?command=size&input=1&output=1&tty=1", "v4.channel.k8s.io")
    _, stdin, stdout, resize = [await client.stream(streamType=kind) for kind in ("error", "stdin", "stdout", "resize")]
    await client.send(resize, b'{"Width":8')
    await client.send(resize, b'0,"Height":24}\n')
    await client.until(lambda: client.over(stdout))
    assert json.loads(client.of(stdout)) == {"Width": 80, "Height": 24}
    assert stdin


async def test_a_spdy_client_that_leaves_before_its_streams_ends_the_command(place: Place, spdy: Dial) -> None:
    client = await spdy("/exec/web/app?command=cat&input=1&output=1", "v4.channel.k8s.io")
    await eventually(lambda: place[0].running == 1)
    client.writer.close()
    await eventually(lambda: place[0].running == 0)


# port-forward


async def test_two_connections_share_one_spdy_session(place: Place, spdy: Dial) -> None:
    client = await spdy("/portforward/web", "portforward.k8s.io")
    pairs = []
    for number in ("0", "1"):
        error = await client.stream(streamType="error", port="80", requestID=number)
        pairs.append((error, await client.stream(streamType="data", port="80", requestID=number)))
        await client.send(error, b"", fin=True)
    for at, (_, data) in enumerate(pairs):
        await client.send(data, b"request %d" % at, fin=True)
    await client.until(lambda: client.over(*[stream for pair in pairs for stream in pair]))
    assert [client.of(data) for _, data in pairs] == [b"REQUEST 0", b"REQUEST 1"]
    assert [client.of(error) for error, _ in pairs] == [b"", b""]
    await eventually(lambda: place[0].running == 0)


async def test_a_port_where_nothing_listens_is_said_on_the_error_stream(spdy: Dial) -> None:
    client = await spdy("/portforward/web", "portforward.k8s.io")
    error = await client.stream(streamType="error", port="81", requestID="0")
    await client.stream(streamType="data", port="81", requestID="0")
    await client.until(lambda: client.over(error))
    assert client.of(error) == b"nothing listens on port 81"


async def test_spdy_inside_a_websocket_is_what_new_kubectl_sends(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/portforward/web", "SPDY/3.1+portforward.k8s.io")
    tunneled = SpdyConnection(client=True)
    events: list[Event] = []
    error = tunneled.open({"streamType": "error", "port": "80", "requestID": "0"})
    data = tunneled.open({"streamType": "data", "port": "80", "requestID": "0"})
    tunneled.send(data, b"shout", fin=True)
    raw = tunneled.take()
    for at in range(0, len(raw), 50):
        await ws.ws.send_bytes(raw[at : at + 50])
    while not any(isinstance(e, Data) and e.stream == error and e.fin for e in events):
        events += tunneled.receive((await ws.ws.receive()).data)
    assert b"".join(e.data for e in events if isinstance(e, Data) and e.stream == data) == b"SHOUT"


async def test_older_clients_forward_each_port_of_the_query(place: Place, http: aiohttp.ClientSession) -> None:
    ws = await socket(http, place, "/portforward/web?ports=80&ports=81", "v4.channel.k8s.io")
    greetings = [(await ws.ws.receive()).data for _ in range(4)]
    assert greetings == [b"\x00\x50\x00", b"\x01\x50\x00", b"\x02\x51\x00", b"\x03\x51\x00"]
    await ws.ws.send_bytes(b"\x00shout")
    answers = sorted([(await ws.ws.receive()).data for _ in range(2)])
    assert answers == [b"\x00SHOUT", b"\x03nothing listens on port 81"]
    await ws.ws.close()
    await eventually(lambda: place[0].running == 0)


async def test_a_client_that_leaves_ends_its_connections(place: Place, spdy: Dial) -> None:
    client = await spdy("/portforward/web", "portforward.k8s.io")
    await client.stream(streamType="error", port="80", requestID="0")
    data = await client.stream(streamType="data", port="80", requestID="0")
    await client.send(data, b"x")
    await client.until(lambda: client.of(data) == b"X")
    client.writer.close()
    await eventually(lambda: place[0].running == 0)

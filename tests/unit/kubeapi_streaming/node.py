"""A node for streams: a shell of a few words, behind ``serve_call`` on a real HTTP server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from kubeapi.http import Answer, HttpServer, Request
from kubeapi.streaming.front import serve_call
from proto.calls import Call, CallRefused, exit_status
from proto.kit.channels import DATA, ERROR, RESIZE, STDERR, STDIN, STDOUT, Channels, ChannelsClosed, local_pair
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor


class ShellNode:
    """``open`` is an OpenCall. Commands: cat, size, fail N, both, break, flood; logs: three lines; port 80: shouts back."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.tasks = Supervisor(SystemClock())
        self.running = 0

    async def open(self, call: Call) -> Channels:
        self.calls.append(call)
        if call.pod == "missing":
            raise CallRefused(404, "NotFound", 'pods "missing" not found')
        if call.kind == "portforward" and call.port == 81:
            raise CallRefused(500, "InternalError", "nothing listens on port 81")
        here, there = local_pair()
        kinds: dict[str, Callable[[Call, Channels], Awaitable[None]]] = {
            "logs": self._logs,
            "portforward": self._shout,
        }
        self.tasks.spawn(self._serve(kinds.get(call.kind, self._shell), call, there), "node")
        return here

    async def _serve(self, serve: Callable[[Call, Channels], Awaitable[None]], call: Call, end: Channels) -> None:
        self.running += 1
        try:
            await serve(call, end)
            await end.close()
        except ChannelsClosed:
            await end.close()
        finally:
            self.running -= 1

    async def _logs(self, call: Call, end: Channels) -> None:
        for number in range(3):
            await end.write(STDOUT, f"line {number}\n".encode())
        if call.previous:
            await end.close("the node went away")
        while call.follow and await end.read() is not None:
            pass

    async def _web(self, end: Channels) -> None:
        """A web server of one page: what it was asked."""
        head = b""
        while b"\r\n\r\n" not in head and (chunk := await end.read()) is not None and chunk.data:
            head += chunk.data
        first = head.split(b"\r\n")[0]
        await end.write(
            DATA, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(first) + first
        )
        await end.finish(DATA)

    async def _shout(self, call: Call, end: Channels) -> None:
        if call.port == 8080:
            await self._web(end)
            return
        while (chunk := await end.read()) is not None and chunk.data:
            await end.write(DATA, chunk.data.upper())
        await end.finish(DATA)
        while await end.read() is not None:
            pass

    async def _shell(self, call: Call, end: Channels) -> None:
        word, *rest = call.command or ["cat"]
        code = 0
        if word == "cat":
            await self._cat(end)
        elif word == "size":
            while (chunk := await end.read()) is not None and chunk.channel != RESIZE:
                pass
            await end.write(STDOUT, chunk.data if chunk is not None else b"")
        elif word == "both":
            await end.write(STDOUT, b"out")
            await end.write(STDERR, b"err")
        elif word == "flood":
            for _ in range(int(rest[0])):
                await end.write(STDOUT, b"z" * 32768)
        elif word == "break":
            await end.close("the container went away")
        elif word == "fail":
            code = int(rest[0])
        await end.write(ERROR, msgspec.json.encode(exit_status(code)))

    async def _cat(self, end: Channels) -> None:
        while (chunk := await end.read()) is not None:
            if chunk.channel == STDIN:
                if not chunk.data:
                    return
                await end.write(STDOUT, chunk.data)


@asynccontextmanager
async def serving_node() -> AsyncIterator[tuple[ShellNode, int]]:
    """Serve a node on loopback at ``/{kind}/{pod}/{container}``; yields it and its port."""
    node, clock = ShellNode(), SystemClock()

    async def handler(request: Request) -> Answer:
        kind, pod, container = [*request.segments(), "", ""][:3]
        chosen: Any = kind
        return await serve_call(request, chosen, "default", pod, container, node.open)

    server = HttpServer(handler, clock=clock)
    port = await server.start("127.0.0.1", 0)
    try:
        yield node, port
    finally:
        await server.close()
        await asyncio.wait_for(node.tasks.close(), 5)

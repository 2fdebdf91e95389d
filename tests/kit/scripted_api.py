"""An API server of one resource that injects each fault once, for the list-watch."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cloudcore.kube.client import KubeClient
from cloudcore.kube.config import KubeAccess
from proto.kit.httpclient import HttpLimits


class ScriptedApi:
    """Holds Devices in memory. ``faults`` are taken by the next watches: close, reset, gone, http-gone, silent."""

    def __init__(self) -> None:
        self.revision = 1
        self.items: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.faults: list[str] = []
        self.lists = 0
        self.watches = 0
        self.oldest = 0
        self.ending = False
        self._changed = asyncio.Condition()

    async def put(self, name: str, **spec: Any) -> None:
        self.revision += 1
        kind = "MODIFIED" if name in self.items else "ADDED"
        metadata = {"name": name, "namespace": "default", "uid": f"u-{name}", "resourceVersion": str(self.revision)}
        self.items[name] = {"metadata": metadata, "spec": spec}
        await self._note(kind, self.items[name])

    async def delete(self, name: str) -> None:
        self.revision += 1
        found = self.items.pop(name)
        found["metadata"]["resourceVersion"] = str(self.revision)
        await self._note("DELETED", found)

    def compact(self) -> None:
        self.oldest = self.revision

    async def end_watch(self) -> None:
        async with self._changed:
            self.ending = True
            self._changed.notify_all()

    async def _note(self, kind: str, item: dict[str, Any]) -> None:
        async with self._changed:
            self.log.append((self.revision, kind, json.loads(json.dumps(item))))
            self._changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                target = head.split(" ", 2)[1]
                if "watch=1" in target:
                    await self._watch(target, writer)
                    return
                self.lists += 1
                self._answer(
                    writer, 200, {"metadata": {"resourceVersion": str(self.revision)}, "items": [*self.items.values()]}
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(encoded)}\r\n\r\n".encode() + encoded)

    async def _watch(self, target: str, writer: asyncio.StreamWriter) -> None:
        self.watches += 1
        since = int(target.split("resourceVersion=")[1].split("&", maxsplit=1)[0])
        fault = self.faults.pop(0) if self.faults else ""
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        if fault == "http-gone" or since < self.oldest:
            self._answer(writer, 410, gone)
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        if fault == "silent":
            await asyncio.Event().wait()
        if fault == "gone":
            self._line(writer, "ERROR", gone)
        if fault in {"gone", "close"}:
            writer.write(b"0\r\n\r\n")
            return
        if fault == "reset":
            writer.transport.abort()
            return
        while True:
            for revision, kind, item in self.log:
                if revision > since:
                    self._line(writer, kind, item)
                    since = revision
            await writer.drain()
            async with self._changed:
                while not self.ending and self.revision <= since:
                    await self._changed.wait()
            if self.ending:  # the running watch ends cleanly; the next one meets the fault
                self.ending = False
                writer.write(b"0\r\n\r\n")
                return

    @staticmethod
    def _line(writer: asyncio.StreamWriter, kind: str, item: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


@asynccontextmanager
async def scripted_api() -> AsyncIterator[tuple[ScriptedApi, KubeClient]]:
    api = ScriptedApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    access = KubeAccess(server=f"http://127.0.0.1:{port}", context=None)
    client = KubeClient(access, limits=HttpLimits(request_timeout_s=2.0))
    try:
        yield api, client
    finally:
        await client.close()
        server.close()

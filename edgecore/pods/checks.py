"""One look at a container, as probes and hooks want it: exec, httpGet, tcpSocket, grpc. Bounded in time and bytes."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgecore.pods.runtime import ContainerRuntime, RuntimeRefused
from edgecore.pods.specs import Json
from proto.kit.tls import bootstrap_context

MAX_ANSWER_BYTES = 10 << 10
MAX_HEAD_BYTES = 32 << 10
MAX_MESSAGE = 1024
DEFAULT_PORTS = {"HTTP": 80, "HTTPS": 443}


@dataclass(frozen=True, slots=True)
class Found:
    """How a check ended; ``message`` says why it failed. ``timed_out``: by the word of the runtime, which may be late itself."""

    ok: bool
    message: str = ""
    timed_out: bool = False


class Checks:
    """Runs checks against containers of one runtime."""

    def __init__(self, runtime: ContainerRuntime, https: Callable[[], ssl.SSLContext] = bootstrap_context) -> None:
        self._runtime = runtime
        self._make_https = https  # checks no certificate: a probe asks whether the container answers, as kubelet's does
        self._https: ssl.SSLContext | None = None

    async def run(self, container: Json, check: Json, container_id: str, host: str, timeout_s: float) -> Found:
        """Run the one action that ``check`` names against ``host`` (the pod's address). Raises RuntimeAway."""
        patience_s = (
            None if "exec" in check else timeout_s
        )  # an exec is ended by the runtime: our clock would blame one that hangs
        try:
            async with asyncio.timeout(patience_s):
                return await self._run(container, check, container_id, host, timeout_s)
        except TimeoutError:
            return Found(False, f"timed out after {timeout_s:g}s", timed_out="exec" in check)
        except RuntimeRefused as error:
            return Found(False, str(error))
        except (OSError, ValueError) as error:
            return Found(False, str(error) or type(error).__name__)

    async def _run(self, container: Json, check: Json, container_id: str, host: str, timeout_s: float) -> Found:
        if "exec" in check:
            argv = tuple((check["exec"] or {}).get("command") or ())
            done = await self._runtime.exec_sync(container_id, argv, timeout_s)
            output = (done.stdout + done.stderr)[:MAX_MESSAGE].decode(errors="replace")
            return Found(done.exit_code == 0, output or f"command exited with code {done.exit_code}")
        if "httpGet" in check:
            return await self._http(container, check["httpGet"], host)
        if "tcpSocket" in check:
            action = check["tcpSocket"]
            _, writer = await asyncio.open_connection(action.get("host") or host, port_of(container, action["port"]))
            writer.close()
            return Found(True)
        if "grpc" in check:
            from edgecore.pods.cri.health import serving  # noqa: PLC0415  few nodes need it

            return await _grpc(serving, host, check["grpc"], timeout_s)
        return Found(True)

    async def _http(self, container: Json, action: Json, host: str) -> Found:
        scheme = str(action.get("scheme") or "HTTP").upper()
        host = action.get("host") or host
        port = port_of(container, action.get("port") or DEFAULT_PORTS.get(scheme, 80))
        if scheme == "HTTPS" and self._https is None:
            self._https = self._make_https()
        context = self._https if scheme == "HTTPS" else None
        reader, writer = await asyncio.open_connection(host, port, limit=MAX_HEAD_BYTES, ssl=context)
        try:
            writer.write(request_head(action, host, port))
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _some(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return Found(False, "the answer is no HTTP")
        finally:
            writer.close()
        return judge_http(head, body)


def request_head(action: Json, host: str, port: int) -> bytes:
    """The GET request of an httpGet action."""
    path = str(action.get("path") or "/")
    path = path if path.startswith("/") else "/" + path
    shown = f"[{host}]" if ":" in host else host
    headers = {"Host": f"{shown}:{port}", "User-Agent": "kube-probe/1.33", "Accept": "*/*", "Connection": "close"}
    for header in action.get("httpHeaders") or []:
        known = next((k for k in headers if k.lower() == str(header.get("name", "")).lower()), header.get("name", ""))
        headers[known] = str(header.get("value", ""))
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    if any(c in line for line in lines for c in "\r\n"):
        raise ValueError("the probe's path or headers hold a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def judge_http(head: bytes, body: bytes) -> Found:
    """200 to 399 is well."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return Found(False, "the answer is no HTTP")
    code = int(words[1])
    if 200 <= code < 400:
        return Found(True)
    detail = body[:MAX_MESSAGE].decode(errors="replace").strip()
    return Found(False, f"HTTP probe failed with statuscode: {code}" + (f": {detail}" if detail else ""))


def port_of(container: Json, port: Any) -> int:
    """The number of a port given as number or as the name of a container port. Raises ValueError."""
    if isinstance(port, int):
        return port
    for known in container.get("ports") or []:
        if known.get("name") == port:
            return int(known["containerPort"])
    if str(port).isdigit():
        return int(port)
    raise ValueError(f"the container has no port named {port!r}")


async def _some(reader: asyncio.StreamReader) -> bytes:
    out = bytearray()
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while len(out) < MAX_ANSWER_BYTES and (piece := await reader.read(MAX_ANSWER_BYTES)):
            out += piece
    return bytes(out)


async def _grpc(serving: Any, host: str, action: Mapping[str, Any], timeout_s: float) -> Found:
    word = await serving(host, int(action["port"]), str(action.get("service") or ""), timeout_s)
    return Found(word == "SERVING", f"service unhealthy (responded with {word!r})")

"""Ask the running daemon for its status over its own health address; bounded, synchronous, for the commands."""

import socket
from contextlib import suppress
from typing import Any

import msgspec

from edgecore.data_dir import DataDir, Running
from edgecore.settings import is_loopback
from proto.kit.canonical import UNREADABLE

TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 4 << 20


def live_status(directory: DataDir) -> tuple[Running | None, dict[str, Any] | None]:
    """(who runs here or None, what it answers or None when it does not)."""
    running = directory.running()
    if running is None or not running.api_port:
        return running, None
    answer = fetch(running.api_host, running.api_port, "/status")
    if answer is None:
        return running, None
    with suppress(*UNREADABLE):
        document = msgspec.json.decode(answer)
        if isinstance(document, dict):
            return running, document
    return running, None


def fetch(host: str, port: int, path: str) -> bytes | None:
    """GET ``path``; the body of a 200 answer, else None."""
    target = "127.0.0.1" if host in {"", "0.0.0.0"} or (is_loopback(host) and ":" not in host) else host  # noqa: S104
    if host == "::":
        target = "::1"
    request = f"GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode()
    raw = bytearray()
    try:
        with socket.create_connection((target, port), TIMEOUT_S) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.sendall(request)
            while len(raw) < MAX_ANSWER_BYTES and (piece := sock.recv(65536)):
                raw += piece
    except OSError:
        return None
    head, _, body = bytes(raw).partition(b"\r\n\r\n")
    if b" 200" not in head.split(b"\r\n", 1)[0]:
        return None
    return body

"""hostPorts: connections and datagrams to a port of the node go to the pod. The listening sockets were made in the node's network."""

import socket
from typing import Any

from edgecore.pods.process.shim.loop import READ, WRITE, Loop

Json = dict[str, Any]
CHUNK_BYTES = 64 << 10
MAX_PEERS = 1024  # of a UDP port: the oldest is forgotten


class PortTaken(Exception):
    """A port of the node is not to be had; the text says which and why."""


def listen(ports: list[Json]) -> list[tuple[socket.socket, Json]]:
    """Open the ports of the node. Raises PortTaken."""
    held: list[tuple[socket.socket, Json]] = []
    for port in ports:
        kind = socket.SOCK_DGRAM if port["protocol"] == "UDP" else socket.SOCK_STREAM
        host = port["host_ip"] or "0.0.0.0"  # noqa: S104  what hostPort means
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        try:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port["host_port"]))
            if kind == socket.SOCK_STREAM:
                sock.listen(128)
        except OSError as error:
            for other in (sock, *(one for one, _ in held)):
                other.close()
            raise PortTaken(f"hostPort {port['host_port']}/{port['protocol']} on {host}: {error.strerror}") from error
        sock.setblocking(False)
        held.append((sock, port))
    return held


class Forwarder:
    """Carries everything that comes to the ports to ``address`` in this process's network."""

    def __init__(self, loop: Loop, listening: list[tuple[socket.socket, Json]], address: str) -> None:
        self._loop, self._address, self._listening = loop, address, listening
        for sock, port in listening:
            if port["protocol"] == "UDP":
                _Datagrams(loop, sock, (address, port["container_port"]))
            else:
                loop.add(sock.fileno(), lambda _, s=sock, p=port: self._accept(s, p["container_port"]))  # type: ignore[misc]

    def close(self) -> None:
        for sock, _ in self._listening:
            self._loop.remove(sock.fileno())
            sock.close()
        self._listening = []

    def _accept(self, sock: socket.socket, port: int) -> None:
        try:
            incoming, _ = sock.accept()
        except OSError:
            return
        outgoing = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET)
        for end in (incoming, outgoing):
            end.setblocking(False)
        try:
            outgoing.connect((self._address, port))
        except BlockingIOError:
            pass
        except OSError:
            incoming.close()
            outgoing.close()
            return
        _Pair(self._loop, incoming, outgoing)


class _Pair:
    """Two connections that are one."""

    def __init__(self, loop: Loop, a: socket.socket, b: socket.socket) -> None:
        self._loop = loop
        self._peer = {a: b, b: a}
        self._waiting = {a: b"", b: b""}  # to be written to it
        self._over = {a: False, b: False}  # it says nothing more
        for end in (a, b):
            loop.add(end.fileno(), lambda events, e=end: self._ready(e, events), READ | (WRITE if end is b else 0))  # type: ignore[misc]

    def _ready(self, end: socket.socket, events: int) -> None:
        try:
            if events & WRITE and self._waiting[end]:
                self._flush(end)
            if events & READ and not self._over[end] and not self._waiting[self._peer[end]]:
                self._carry(end)
            if all(self._over.values()) and not any(self._waiting.values()):
                self._close()
                return
            for one in self._peer:
                self._interest(one)
        except OSError:
            self._close()

    def _carry(self, end: socket.socket) -> None:
        other = self._peer[end]
        try:
            data = end.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self._waiting[other] = data
            self._flush(other)
            return
        self._over[end] = True
        if not self._waiting[other]:
            other.shutdown(socket.SHUT_WR)

    def _flush(self, end: socket.socket) -> None:
        try:
            sent = end.send(self._waiting[end])
        except BlockingIOError:
            return
        self._waiting[end] = self._waiting[end][sent:]
        if not self._waiting[end] and self._over[self._peer[end]]:
            end.shutdown(socket.SHUT_WR)

    def _interest(self, end: socket.socket) -> None:
        reading = 0 if self._over[end] or self._waiting[self._peer[end]] else READ
        self._loop.change(end.fileno(), reading | (WRITE if self._waiting[end] else 0))

    def _close(self) -> None:
        for end in self._peer:
            self._loop.remove(end.fileno())
            end.close()


class _Datagrams:
    """One UDP port: each peer has a socket of its own towards the pod, so that answers find back."""

    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._sock, self._target = loop, sock, target
        self._peers: dict[Any, socket.socket] = {}
        loop.add(sock.fileno(), self._arrived)

    def _arrived(self, _: int) -> None:
        try:
            data, peer = self._sock.recvfrom(CHUNK_BYTES)
            (self._peers.get(peer) or self._meet(peer)).send(data)
        except OSError:
            return

    def _meet(self, peer: Any) -> socket.socket:
        if len(self._peers) >= MAX_PEERS:
            oldest = self._peers.pop(next(iter(self._peers)))
            self._loop.remove(oldest.fileno())
            oldest.close()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(self._target)
        self._peers[peer] = sock
        self._loop.add(sock.fileno(), lambda _: self._answered(sock, peer))
        return sock

    def _answered(self, sock: socket.socket, peer: Any) -> None:
        try:
            self._sock.sendto(sock.recv(CHUNK_BYTES), peer)
        except OSError:
            return

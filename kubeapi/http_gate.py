"""A listener that asks who calls before anything is spent on the call: no handshake, no place among the connections.

An address on a machine is reachable from every network of that machine, whichever interface it is on. Who may not call
is reset as soon as the kernel has accepted it.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from proto.kit.log import Logger

BACKLOG = 1024
ACCEPTS_PER_TURN = 64  # then others of the loop have their turn
ACCEPT_AGAIN_S = 1.0  # when the process has no descriptor left
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, at once
Allows = Callable[[str], bool]
Make = Callable[[], asyncio.Protocol]
Spawn = Callable[[Coroutine[Any, Any, None], str], object]
log = Logger("http")


class Gate:
    """Listens like an ``asyncio.Server``. ``allows(address of the peer)``; ``refused(address)`` is told of the others."""

    def __init__(
        self, listener: socket.socket, make: Make, tls: dict[str, Any], allows: Allows, refused: Callable[[str], None]
    ) -> None:
        self.sockets = (listener,)
        self._make, self._tls, self._allows, self._refused = make, tls, allows, refused
        self._again: asyncio.TimerHandle | None = None

    @classmethod
    def listen(
        cls, host: str, port: int, make: Make, tls: dict[str, Any], allows: Allows, refused: Callable[[str], None]
    ) -> "Gate":
        """Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        listener.setblocking(False)
        return cls(listener, make, tls, allows, refused)

    def start(self, spawn: Spawn) -> None:
        """Accept until ``close``."""
        self._spawn, self._loop = spawn, asyncio.get_running_loop()
        self._loop.add_reader(self.sockets[0].fileno(), self._accept)

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self.sockets[0].fileno())
        self.sockets[0].close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, peer = self.sockets[0].accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("no connection is accepted for a moment", error=error.strerror)
                self._loop.remove_reader(self.sockets[0].fileno())
                self._again = self._loop.call_later(ACCEPT_AGAIN_S, self.start, self._spawn)
                return
            address = str(peer[0])
            if self._allows(address):
                accepted.setblocking(False)
                self._spawn(self._connect(accepted), "http-accept")
            else:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                accepted.close()
                self._refused(address)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, accepted, **self._tls)
        except OSError:  # no handshake, or not in time: the protocol's end is counted where it is made
            accepted.close()

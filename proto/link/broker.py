"""PORT Broker: any MQTT broker by URL (client.py), our own in process (proto.mqtt), memory (memory.py)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proto.kit.errors import Retryable, Terminal


class ConnectionLost(Retryable):
    """The connection to the broker ended; whatever had no PUBACK may or may not have arrived."""

    code = "ConnectionLost"


class Unreachable(Retryable):
    """No connection could be made: the text says which address and why."""

    code = "Unreachable"


class Refused(Terminal):
    """The broker refused the client, a subscription or a publish: identity or rights."""

    code = "Refused"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Inbound:
    """One received PUBLISH. ``ack`` sends PUBACK; until then it counts against the receive window."""

    topic: str
    payload: bytes
    retain: bool
    ack: Callable[[], None]


class Connection(Protocol):
    """One live MQTT connection; its session is clean unless its Broker was told otherwise."""

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Return once SUBACK granted it. Raises Refused, ConnectionLost."""
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> "asyncio.Future[None]":
        """Send in call order; the future resolves at PUBACK (QoS 0: once written) or fails with ConnectionLost."""
        ...

    async def receive(self) -> Inbound:
        """Return the next message in arrival order. Raises ConnectionLost."""
        ...

    async def close(self) -> None:
        """DISCONNECT, so that no will is published."""
        ...


class Broker(Protocol):
    """A way to get connections to one broker."""

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> Connection:
        """Return a live connection. Raises Unreachable, Refused."""
        ...

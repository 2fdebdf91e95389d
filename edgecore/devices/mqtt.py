"""PORT DeviceBroker: the MQTT broker that devices speak to, embedded (proto.mqtt) or external by URL (proto.link.client)."""

import asyncio
from collections.abc import Callable
from typing import Protocol

Receive = Callable[[str, bytes], "asyncio.Future[None]"]


class DeviceBroker(Protocol):
    """Delivers what devices publish, and publishes to them. QoS 1, never retained."""

    async def run(self, receive: Receive) -> None:
        """Hand every PUBLISH on a topic of ours to ``receive`` until cancelled.

        PUBACK is sent when the returned future resolves, never when it fails.
        """
        ...

    def publish(self, topic: str, payload: bytes) -> None:
        """Send after everything that was published before; a broker that is away drops it and counts."""
        ...

    def listens(self, topic: str) -> bool:
        """Whether somebody may hear ``topic``; True when that cannot be known."""
        ...

"""Any MQTT broker by URL through paho-mqtt, driven by the event loop, with manual acknowledgements."""

import ssl
from collections.abc import Callable

from proto.kit.clock import Clock
from proto.link.broker import Connection, Will


class PahoBroker:
    """A broker at ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://…``. MQTT 5 unless ``version`` says 4 (3.1.1)."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        version: int = 5,
        max_packet_bytes: int = (256 << 10) + 1024,
        receive_maximum: int = 100,
        connect_timeout_s: float = 10.0,
    ) -> None:
        """``tls`` is asked at every connect, so a renewed certificate is used from the next one. Raises UsageError."""

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> Connection:
        """Return a live connection. Raises Unreachable, Refused."""
        raise NotImplementedError

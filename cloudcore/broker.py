"""The MQTT broker between edges and cloud: embedded behind mutual TLS, or any other by URL.

Rights at the embedded one are in ``broker_access``; what a real one must enforce is written by ``broker_files``.
"""

import ssl
from pathlib import Path

from cloudcore.broker_access import BrokerAccess
from cloudcore.certs import NODE_USER
from cloudcore.settings import FRAME_ROOM_BYTES
from cloudcore.settings import Broker as BrokerOptions
from proto.kit import tls
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.link.broker import Broker
from proto.mqtt.broker import SCHEMA
from proto.mqtt.local import LocalBroker


class EmbeddedBroker:
    """Our broker with its own database, behind mutual TLS. Open it inside a running loop."""

    def __init__(
        self,
        path: Path,
        options: BrokerOptions,
        access: BrokerAccess,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._options = options
        self._database = Database.open(path, [SCHEMA])
        self.local = LocalBroker(
            options.limits,
            db=self._database,
            authenticate=access.authenticate,
            acl=access.acl,
            clock=clock,
            metrics=metrics,
        )

    async def listen(self, context: ssl.SSLContext) -> int:
        """Serve edges; returns the bound port. Raises OSError."""
        return await self.local.listen(self._options.host, self._options.port, context)

    def kick_node(self, node: str) -> None:
        """End the node's connection: its certificate was revoked."""
        self.local.kick_identity(NODE_USER + node)

    async def close(self) -> None:
        await self.local.close()
        await self._database.close()


def foreign(options: BrokerOptions, *, ca: Path, cert: Path, key: Path, clock: Clock, frame_bytes: int) -> Broker:
    """Return a real broker by URL, as cloudcore with its own client certificate."""
    from proto.link.client import PahoBroker  # noqa: PLC0415  paho is loaded only where a broker is foreign

    name = options.server_name or tls.SERVER_NAME
    contexts = tls.client_contexts(cert, key, Path(options.ca) if options.ca else ca, name)
    return PahoBroker(
        options.url,
        clock=clock,
        tls=contexts if options.url.startswith("mqtts:") else None,
        server_hostname=name,
        version=options.mqtt_version,
        max_packet_bytes=frame_bytes + FRAME_ROOM_BYTES,
    )

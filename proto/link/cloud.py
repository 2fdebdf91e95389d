"""The cloud's end of all links: one session machine per node over one Broker connection."""

from dataclasses import dataclass

from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.metrics import Metrics
from proto.link.broker import Broker
from proto.link.log import CloudLog
from proto.link.replica import CloudReplica
from proto.link.settings import LinkSettings


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One node as the cloud sees it; ``*_s`` are clock.now_s()."""

    epoch: int
    connected: bool
    since_s: float
    last_seen_s: float


class CloudLink:
    """Serve every node's link until cancelled."""

    def __init__(
        self,
        broker: Broker,
        log: CloudLog,
        replica: CloudReplica,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        client_id: str = "cloudcore",
    ) -> None:
        pass

    async def run(self) -> None:
        """Connect to the broker and serve until cancelled; reconnects by itself."""
        raise NotImplementedError

    def changed(self, node: str, key: str) -> None:
        """Object ``key`` of ``node`` changed or left its scope; the newest is sent if the node is connected. Cheap."""
        raise NotImplementedError

    async def send_message(self, node: str, kind: str, body: bytes) -> int:
        """Store a message for ``node`` (durable on return) and return its seq. Raises StorageFull, Retryable."""
        raise NotImplementedError

    def sessions(self) -> dict[str, SessionInfo]:
        """Return every node seen since start."""
        raise NotImplementedError

    async def kick(self, node: str, reason: str) -> None:
        """End the node's session now; it may say hello again if the broker still lets it in."""
        raise NotImplementedError

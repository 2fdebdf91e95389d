"""The edge's end of the link: runs the session machine, outbox and inbox over a Broker."""

from dataclasses import dataclass

from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.metrics import Metrics
from proto.link.broker import Broker
from proto.link.outbox import SCHEMA, Outbox
from proto.link.replica import EdgeReplica
from proto.link.settings import LinkSettings

__all__ = ["SCHEMA", "EdgeLink", "LinkStatus"]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What people and health checks want to know of the link."""

    connected: bool  # a session is live
    epoch: int  # newest epoch committed here; 0 = never
    since_s: float  # clock.now_s() of the last change of ``connected``
    pending_states: int
    pending_messages: int
    pending_bytes: int
    fenced: bool  # this disk is a copy (or its name was taken over): it must join again
    last_error: str  # "" when the last attempt went well


class EdgeLink:
    """Run one node's link until cancelled. ``SCHEMA`` must be among the schemas given to ``Database.open``."""

    def __init__(
        self,
        node: str,
        broker: Broker,
        db: Database,
        replica: EdgeReplica,
        settings: LinkSettings,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> None:
        self.outbox = Outbox(db, settings, clock=clock, metrics=metrics)

    async def run(self) -> None:
        """Connect, sync and keep syncing until cancelled."""
        raise NotImplementedError

    def status(self) -> LinkStatus:
        """Return the present state; cheap, for the loop's thread."""
        raise NotImplementedError

    def reconnect(self) -> None:
        """Drop the connection and connect again (a renewed certificate is used from then on)."""
        raise NotImplementedError

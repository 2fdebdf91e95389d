"""What the edge must not forget to send: statuses (newest per key) and messages (in order), in the edge's own database."""

from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.metrics import Metrics
from proto.link.settings import LinkSettings

SCHEMA = ""


class Outbox:
    """Durable outgoing rows. ``put_*`` run in the caller's transaction; the link wakes after its commit."""

    def __init__(self, db: Database, settings: LinkSettings, *, clock: Clock, metrics: Metrics) -> None:
        pass

    def put_state(self, tx: Tx, key: str, body: bytes, *, priority: int = 1) -> None:
        """Keep ``body`` as the newest status of ``key`` until the cloud has it. Lower ``priority`` is sent first.

        Raises StorageFull while the disk has no room, Terminal for a body over ``object_bytes``.
        """
        raise NotImplementedError

    def put_message(self, tx: Tx, kind: str, body: bytes) -> int:
        """Append one message and return its seq. Over quota the oldest are dropped: counted, and told by a gap row.

        Raises StorageFull while the disk has no room, Terminal for a body over ``object_bytes``.
        """
        raise NotImplementedError

"""The edge's half of replication: what the cloud says becomes objects of the edge's own store.

Writes the spec of everything that the cloud sends, in the link's transaction; a status that was written here stays. ``held``
is kept beside the objects, so that a hello costs no hashing: it says what the cloud sent, whatever the store shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgecore.definitions import Definitions
from edgecore.kinds import CRD, DEVICE_STATUS, NODE, POD
from kubeapi.resources import Registry, Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.labels import MIRROR
from proto.link.replica import MessageRow, StateChange
from proto.names import ObjectKey, parse_key

SCHEMA = """
CREATE TABLE IF NOT EXISTS sync_held (
  key TEXT PRIMARY KEY, digest BLOB NOT NULL, uid TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sync_early (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
OWN = {(DEVICE_STATUS.group, DEVICE_STATUS.plural), ("", "events"), ("coordination.k8s.io", "leases")}  # written here
NO_MIRRORS: Mapping[str, str] = {}

log = Logger("sync")
MessageHandler = Callable[[Tx, MessageRow], None]
Park = Callable[[Tx, str, bytes | None], bool]


class Replica:
    """PORT EdgeReplica over the store. ``statuses_of`` is asked for every status that this edge owns.

    ``messages`` says who applies which kind of message, in the link's transaction. ``park`` is asked before an object changes
    in the store, with its key and what the cloud says (None: gone); True means that it is kept aside, and that ``unpark`` will
    bring it.
    """

    def __init__(
        self,
        node: str,
        db: Database,
        store: Store,
        registry: Registry,
        *,
        statuses_of: Callable[[], Mapping[str, bytes]],
        node_status: Callable[[], dict[str, Any] | None],
        metrics: Metrics,
        messages: Mapping[str, MessageHandler] | None = None,
        park: Park | None = None,
    ) -> None:
        self._node = node
        self._store = store
        self._registry = registry
        self._definitions = Definitions(store, registry)
        self._statuses_of = statuses_of
        self._node_status = node_status
        self._messages, self._park = messages or {}, park
        rows = db.read(lambda conn: conn.execute("SELECT key, digest FROM sync_held").fetchall())
        self._held: dict[str, bytes] = dict(rows)
        self._mirrors: dict[str, str] = dict(db.read(_read_mirrors))
        self.mirrors_changed: Callable[[], None] = lambda: None  # told on the loop, after the commit
        self._applied = metrics.counter(
            "skerry_edge_sync_applied_total", "Objects from the cloud stored or deleted.", ["kind"]
        )
        self._refused = metrics.counter(
            "skerry_edge_sync_refused_total",
            "Objects or messages from the cloud that could not be applied.",
            ["reason"],
        )
        metrics.gauge(
            "skerry_edge_sync_held_objects", "Objects of the cloud held here.", source=lambda: len(self._held)
        )

    def held(self) -> Mapping[str, bytes]:
        return self._held

    def knows_node(self) -> bool:
        """Whether the cloud has sent this node's own Node."""
        return str(ObjectKey("", "nodes", "", self._node)) in self._held

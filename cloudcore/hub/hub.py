"""The hub's rooms wired together: one object that the daemon starts and the link asks."""

from cloudcore.controllers.devices import DeviceController
from cloudcore.controllers.nodes import NodeController, is_edge
from cloudcore.history import History
from cloudcore.hub.effects import Effects
from cloudcore.hub.owners import Owners
from cloudcore.hub.replica import Replica
from cloudcore.hub.scope import Changed, Scope
from cloudcore.hub.sessions import Sessions
from cloudcore.hub.upstream import Upstream
from cloudcore.kube.cluster import Cluster
from cloudcore.settings import Settings
from cloudcore.sql import Sql
from proto.kit.daemon import Supervisor


class Hub:
    """``replica`` is what the link gets; ``changed`` is told when a node should hold something else."""

    def __init__(self, cluster: Cluster, sql: Sql, history: History, settings: Settings, changed: Changed) -> None:
        nodes = settings.nodes
        self.cluster = cluster
        self.sessions = Sessions(cluster.clock, away_after_s=nodes.away_after_s, settle_s=nodes.settle_s)
        self.scope = Scope(cluster.devices, cluster.models, cluster.nodes, changed)
        self.owners = Owners(sql, cluster.devices, cluster.clock)
        history.may_report = self.owners.may_report
        self.devices = DeviceController(cluster, self.sessions)
        self.nodes = NodeController(
            cluster, self.sessions, lease_duration_s=nodes.lease_duration_s, lease_renew_s=_renew_s(settings)
        )
        self.upstream = Upstream(
            cluster,
            self.scope,
            ensure_status=self.devices.ensure_status,
            put_node_status=self.nodes.put_status,
            writers=settings.api.status_writers,
        )
        self.effects = Effects(
            history,
            cluster.client,
            self.scope,
            self.nodes.register,
            clock=cluster.clock,
            rng=cluster.rng,
            metrics=cluster.metrics,
        )
        self.replica = Replica(
            self.scope,
            self.upstream,
            history,
            self.sessions,
            self.effects,
            renew_lease=self.nodes.leases.add,
            metrics=cluster.metrics,
        )
        cluster.metrics.gauge(
            "skerry_cloud_nodes_connected",
            "Nodes with a live session",
            source=lambda: sum(session.connected for session in self.sessions.all().values()),
        )

    async def start(self, supervisor: Supervisor) -> None:
        """Load what the rooms remember and run them until the supervisor ends. Raises SqlUnavailable."""
        await self.owners.load()
        supervisor.spawn(self.owners.run(), "owners")
        supervisor.spawn(self.cluster.run(), "informers")
        supervisor.spawn(self.upstream.run(), "upstream")
        supervisor.spawn(self.devices.run(), "devices")
        supervisor.spawn(self.devices.run_messages(), "device-messages")
        supervisor.spawn(self.nodes.run(), "nodes")
        supervisor.spawn(self.nodes.leases.run(), "leases")
        supervisor.spawn(self.nodes.run_leases(), "lease-clock")
        supervisor.spawn(self.effects.run(), "effects")
        supervisor.spawn(self.sessions.run(self._known_nodes), "sessions")

    def _known_nodes(self) -> set[str]:
        edges = {name.name for name, node in self.cluster.nodes.objects.items() if is_edge(node)}
        return edges | set(self.scope.nodes_with_devices())


def _renew_s(settings: Settings) -> float:
    """A real cluster's node controller looks every 40 s, more often than the edge's message comes."""
    return settings.nodes.lease_renew_s or (0.0 if settings.embedded_api else 10.0)

"""The hub's rooms wired together: one object that the daemon starts and the link asks."""

from typing import Any

from cloudcore.controllers.autonomy import Autonomy
from cloudcore.controllers.devices import DeviceController
from cloudcore.controllers.edge_applications import EdgeApplications
from cloudcore.controllers.local_path import GONE as VOLUME_GONE
from cloudcore.controllers.local_path import LocalPath
from cloudcore.controllers.node_groups import NodeGroups
from cloudcore.controllers.nodes import NodeController, is_edge
from cloudcore.history import History
from cloudcore.hub.effects import MAX_TEXT, Effects
from cloudcore.hub.owners import Owners
from cloudcore.hub.pod_effects import GONE, MIRRORED, PodEffects
from cloudcore.hub.replay import Replay
from cloudcore.hub.replica import Replica
from cloudcore.hub.scope import Changed, Scope
from cloudcore.hub.sessions import Sessions
from cloudcore.hub.status_writers import DeviceStatuses, NodeStatuses, PodStatuses
from cloudcore.hub.upstream import Upstream
from cloudcore.hub.write_outcomes import MIN_FORGET_DAYS, Outcomes
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.resources import DEVICE_STATUS, NODE, POD
from cloudcore.settings import Settings
from cloudcore.sql import Sql
from proto import writes
from proto.kit.daemon import Supervisor
from proto.kit.errors import Retryable
from proto.link.cloud import CloudLink
from proto.link.replica import MessageRow


class LinkNotUp(Retryable):
    """There is no way to the nodes yet."""

    code = "LinkNotUp"


class Hub:
    """``replica`` is what the link gets; ``changed`` is told when a node should hold something else."""

    def __init__(self, cluster: Cluster, sql: Sql, history: History, settings: Settings, changed: Changed) -> None:
        nodes = settings.nodes
        self.cluster = cluster
        self.link: CloudLink | None = None  # set as soon as there is one
        self.sessions = Sessions(cluster.clock, away_after_s=nodes.away_after_s, settle_s=nodes.settle_s)
        self.scope = Scope(cluster, changed)
        self.owners = Owners(sql, cluster.devices, cluster.clock)
        history.may_report = self.owners.may_report
        self.devices = DeviceController(cluster, self.sessions)
        self.nodes = NodeController(
            cluster, self.sessions, lease_duration_s=nodes.lease_duration_s, lease_renew_s=_renew_s(settings)
        )
        # Our own API's node life cycle controller knows edge nodes; a cluster's takes them for any other.
        self.autonomy = None if settings.embedded_api else Autonomy(cluster)
        self.upstream = Upstream(
            cluster,
            self.scope,
            {
                NODE: NodeStatuses(self.nodes.put_status),
                DEVICE_STATUS: DeviceStatuses(cluster, self.scope.owns_device, self.devices.ensure_status),
                POD: PodStatuses(cluster, self.scope.owns_pod),
            },
            workers=settings.api.status_writers,
        )
        pods = PodEffects(cluster)
        # Our own API's volume controller makes volumes; no other cluster knows how to.
        self.volumes = LocalPath(cluster, self._tell, provisions=not settings.embedded_api)
        self.groups, self.applications = NodeGroups(cluster), EdgeApplications(cluster, self._tell)
        self._outcomes = Outcomes(sql)
        self._forget_days = max(MIN_FORGET_DAYS, settings.join.grace_days)
        replay = Replay(cluster.client, self.scope, self._outcomes, self.send, self._tell, metrics=cluster.metrics)
        self.effects = Effects(
            history,
            cluster.client,
            self.scope,
            {
                "register": self._register,
                GONE: pods.gone,
                MIRRORED: pods.mirror,
                VOLUME_GONE: self.volumes.gone,
                writes.KIND: replay.carry,
            },
            patient=frozenset({GONE, VOLUME_GONE}),
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
        supervisor.spawn(self.scope.run(), "scope")
        supervisor.spawn(self.upstream.run(), "upstream")
        supervisor.spawn(self.devices.run(), "devices")
        supervisor.spawn(self.devices.run_messages(), "device-messages")
        supervisor.spawn(self.nodes.run(), "nodes")
        if self.autonomy is not None:
            supervisor.spawn(self.autonomy.run(), "autonomy")
        supervisor.spawn(self.nodes.leases.run(), "leases")
        supervisor.spawn(self.nodes.run_leases(), "lease-clock")
        supervisor.spawn(self.effects.run(), "effects")
        supervisor.spawn(self.effects.run_withheld(), "withheld-effects")
        supervisor.spawn(self.effects.run_stuck(), "stuck-effects")
        supervisor.spawn(self._outcomes.run_forget(self.cluster.clock, self._forget_days), "write-outcomes")
        supervisor.spawn(self.volumes.run(), "local-path")
        supervisor.spawn(self.groups.run(), "node-groups")
        supervisor.spawn(self.applications.run(), "edge-applications")
        supervisor.spawn(self.sessions.run(self._known_nodes), "sessions")

    async def send(self, node: str, kind: str, body: bytes) -> int:
        """Send ``node`` a message: durable on return, delivered exactly once. Raises StorageFull, Retryable, Terminal."""
        if self.link is None:
            raise LinkNotUp("the link to the nodes is not up yet")
        return await self.link.send_message(node, kind, body)

    def send_again(self, node: str, key: str) -> None:
        """Let ``node`` have the object ``key`` as it is now, or its absence, whatever it holds."""
        if self.link is not None:
            self.link.changed(node, key)

    def _tell(self) -> Effects:
        return self.effects

    async def _register(self, node: str, _row: MessageRow, body: dict[str, Any]) -> None:
        refused = await self.nodes.register(node, body)
        if refused:
            involved = {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": node, "uid": node}
            text = f"only the cloud gives a Node the labels {', '.join(refused)}: kubectl label node {node} …"
            self.effects.tell("Warning", involved, "LabelsRefused", text[:MAX_TEXT], name=f"{node}.labels-refused")

    def _known_nodes(self) -> set[str]:
        """Return every edge node, also one that has devices and no Node yet."""
        edges = {name.name for name, node in self.cluster.nodes.objects.items() if is_edge(node)}
        return edges | self.scope.nodes_with_devices()


def _renew_s(settings: Settings) -> float:
    """A real cluster's node controller looks every 40 s, more often than the edge's message comes."""
    return settings.nodes.lease_renew_s or (0.0 if settings.embedded_api else 10.0)

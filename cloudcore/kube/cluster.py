"""One API server as cloudcore uses it: a client, and informers of the kinds that the hub and the controllers read."""

import asyncio

from cloudcore.kube.client import KubeClient
from cloudcore.kube.informer import Informer, InformerSettings
from cloudcore.kube.resources import DEVICE, DEVICE_MODEL, DEVICE_STATUS, NODE, Kind
from cloudcore.kube.subresources import StatusPaths
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.metrics import Metrics


class Cluster:
    """Read through ``devices``, ``models``, ``statuses``, ``nodes``; write through ``client``."""

    def __init__(
        self, client: KubeClient, *, clock: Clock, rng: Rng, metrics: Metrics, settings: InformerSettings | None = None
    ) -> None:
        def informer(kind: Kind) -> Informer:
            return Informer(client, kind, clock=clock, rng=rng, metrics=metrics, settings=settings)

        self.client = client
        self.clock, self.rng, self.metrics = clock, rng, metrics
        self.paths = StatusPaths(client, clock)
        self.devices, self.models = informer(DEVICE), informer(DEVICE_MODEL)
        self.statuses, self.nodes = informer(DEVICE_STATUS), informer(NODE)

    @property
    def informers(self) -> tuple[Informer, ...]:
        return (self.devices, self.models, self.statuses, self.nodes)

    @property
    def synced(self) -> bool:
        return all(informer.synced.is_set() for informer in self.informers)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())

    async def wait_synced(self) -> None:
        for informer in self.informers:
            await informer.synced.wait()

"""The controllers that every embedded API needs, started and run together."""

import asyncio

from kubeapi.controllers.custom import CustomCleanup
from kubeapi.controllers.expiry import EventExpiry
from kubeapi.controllers.garbage import Garbage
from kubeapi.controllers.namespaces import Namespaces
from kubeapi.objects import Objects


class BuiltinControllers:
    """Garbage collection, namespaces, CRD clean-up and the expiry of events. ``await start()`` once, then ``run()`` until cancelled."""

    def __init__(self, objects: Objects) -> None:
        self.garbage = Garbage(objects)
        self.namespaces = Namespaces(objects)
        self.custom = CustomCleanup(objects)
        self.expiry = EventExpiry(objects)
        self._workers = (self.garbage.worker, self.namespaces.worker, self.custom.worker)

    async def start(self) -> None:
        """Create the permanent namespaces and begin to follow changes."""
        await self.namespaces.ensure_permanent()
        for controller in (self.garbage, self.namespaces, self.custom):
            controller.start()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run())
            group.create_task(self.expiry.run())

    async def settle(self) -> None:
        """Work until nothing is dirty: for tests and for orderly shutdown."""
        while any(worker.dirty for worker in self._workers):
            for worker in self._workers:
                await worker.drain()

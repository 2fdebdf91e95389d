"""The controllers of an embedded API, started and run together: those that every API needs, and those that run workloads."""

import asyncio
from typing import Any, Protocol

from kubeapi.controllers.custom import CustomCleanup
from kubeapi.controllers.expiry import EventExpiry
from kubeapi.controllers.garbage import Garbage
from kubeapi.controllers.namespaces import Namespaces
from kubeapi.controllers.worker import Worker
from kubeapi.controllers.workloads import workloads
from kubeapi.objects import Objects


class Controller(Protocol):
    """What watches the store and makes keys right."""

    @property
    def worker(self) -> Worker[Any]:
        """Its dirty keys."""
        ...

    def start(self) -> None:
        """Look at what is stored, then follow changes."""
        ...


class BuiltinControllers:
    """Garbage collection, namespaces, CRD clean-up and the expiry of events, and with ``run_workloads`` everything that makes
    pods and places them (off where another control plane does that). ``await start()`` once, then ``run()`` until cancelled.
    """

    def __init__(self, objects: Objects, *, run_workloads: bool = True, root_ca: bytes = b"") -> None:
        self.garbage = Garbage(objects)
        self.namespaces = Namespaces(objects)
        self.custom = CustomCleanup(objects)
        self.expiry = EventExpiry(objects)
        self._controllers: list[Controller] = [self.garbage, self.namespaces, self.custom]
        self.indexes, found = workloads(objects, root_ca)
        self._run_workloads = run_workloads
        if run_workloads:
            self._controllers += found

    async def start(self) -> None:
        """Create the permanent namespaces and begin to follow changes."""
        await self.namespaces.ensure_permanent()
        if self._run_workloads:
            self.indexes.start()
        for controller in self._controllers:
            controller.start()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for controller in self._controllers:
                group.create_task(controller.worker.run())
            group.create_task(self.expiry.run())

    @property
    def failures(self) -> int:
        """How often a controller met what it did not expect."""
        return sum(controller.worker.failures for controller in self._controllers)

    async def settle(self) -> None:
        """Work until nothing is dirty: for tests and for orderly shutdown."""
        while any(controller.worker.dirty for controller in self._controllers):
            for controller in self._controllers:
                await controller.worker.drain()

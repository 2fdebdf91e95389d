"""What the runtime has, kept per pod: full looks are rare, our own steps and the runtime's hints refresh single pods.

Only sandboxes and containers that carry this node's mark exist for us (POD-2).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from edgecore.pods.marks import MANAGED_BY, POD_UID
from edgecore.pods.runtime import Container, ContainerRuntime, NoSuch, Sandbox
from edgecore.pods.seen import Seen

T = TypeVar("T")
DETAILS_AT_ONCE = 8


class Observer:
    """``seen`` by uid. All methods raise RuntimeAway."""

    def __init__(self, runtime: ContainerRuntime, node: str) -> None:
        self._runtime = runtime
        self._node = node
        self.seen: dict[str, Seen] = {}
        self._touched: dict[str, int] = {}  # uid -> when (by count) our own step last changed it
        self._count = 0

    def of(self, uid: str) -> Seen:
        return self.seen.setdefault(uid, Seen())

    async def relist(self, busy: Callable[[], Iterable[str]]) -> set[str]:
        """Look at everything; return the uids of which something is new. Pods in the hands of a worker are left to it."""
        began = self._count
        skipped = set(busy())
        sandboxes, containers = await self._runtime.sandboxes(), await self._runtime.containers()
        fresh: dict[str, Seen] = {}
        for sandbox in filter(self._is_ours, sandboxes):
            fresh.setdefault(sandbox.uid, Seen()).sandboxes[sandbox.id] = sandbox
        for container in filter(self._is_ours, containers):
            fresh.setdefault(container.labels.get(POD_UID, ""), Seen()).containers[container.id] = container
        await self._fill(fresh)
        skipped |= set(busy()) | {uid for uid, at in self._touched.items() if at > began}
        changed = set()
        for uid in (fresh.keys() | self.seen.keys()) - skipped:
            now = fresh.get(uid, Seen())
            if now != self.seen.get(uid, Seen()):
                changed.add(uid)
                self.seen[uid] = now
        return changed

    async def look(self, uid: str) -> None:
        """Ask again about all that is known of one pod."""
        seen = self.of(uid)
        await self._together(
            [self.sandbox(uid, i) for i in tuple(seen.sandboxes)]
            + [self.container(uid, i) for i in tuple(seen.containers)]
        )

    async def sandbox(self, uid: str, sandbox_id: str) -> None:
        """Refresh one sandbox."""
        try:
            found: Sandbox | None = await self._runtime.sandbox_status(sandbox_id)
        except NoSuch:
            found = None
        self._touch(uid)
        _place(self.of(uid).sandboxes, sandbox_id, found)

    async def container(self, uid: str, container_id: str) -> None:
        """Refresh one container."""
        try:
            found: Container | None = await self._runtime.container_status(container_id)
        except NoSuch:
            found = None
        self._touch(uid)
        _place(self.of(uid).containers, container_id, found)

    def removed(self, uid: str, gone_id: str) -> None:
        """A sandbox (with what it holds) or a container was removed."""
        self._touch(uid)
        seen = self.of(uid)
        seen.sandboxes.pop(gone_id, None)
        for container in list(seen.containers.values()):
            if gone_id in (container.id, container.sandbox_id):
                del seen.containers[container.id]

    def forget(self, uid: str) -> None:
        self.seen.pop(uid, None)
        self._touched.pop(uid, None)

    def _touch(self, uid: str) -> None:
        self._count += 1
        self._touched[uid] = self._count

    def _is_ours(self, thing: Sandbox | Container) -> bool:
        return thing.labels.get(MANAGED_BY) == self._node

    async def _fill(self, fresh: dict[str, Seen]) -> None:
        """Replace what a list says by what a status says; what did not change needs no question."""
        questions = []
        for uid, now in fresh.items():
            before = self.seen.get(uid, Seen())
            for sandbox in list(now.sandboxes.values()):
                known = before.sandboxes.get(sandbox.id)
                if known is not None and known.state is sandbox.state:
                    now.sandboxes[sandbox.id] = known
                else:
                    questions.append(self._sandbox_detail(now, sandbox))
            for container in list(now.containers.values()):
                told = before.containers.get(container.id)
                if told is not None and told.state is container.state:
                    now.containers[container.id] = told
                else:
                    questions.append(self._container_detail(now, container))
        await self._together(questions)

    async def _sandbox_detail(self, now: Seen, sandbox: Sandbox) -> None:
        try:
            status = await self._runtime.sandbox_status(sandbox.id)
        except NoSuch:
            del now.sandboxes[sandbox.id]
        else:
            now.sandboxes[sandbox.id] = replace(status, labels=status.labels or sandbox.labels)

    async def _container_detail(self, now: Seen, container: Container) -> None:
        try:
            status = await self._runtime.container_status(container.id)
        except NoSuch:
            del now.containers[container.id]
        else:
            now.containers[container.id] = replace(status, sandbox_id=status.sandbox_id or container.sandbox_id)

    async def _together(self, questions: Sequence[Awaitable[None]]) -> None:
        """Ask them a few at a time."""
        waiting = iter(questions)

        async def ask() -> None:
            for question in waiting:
                await question

        await asyncio.gather(*(ask() for _ in range(min(DETAILS_AT_ONCE, len(questions)))))


def _place(held: dict[str, T], key: str, found: T | None) -> None:
    if found is None:
        held.pop(key, None)
    else:
        held[key] = found

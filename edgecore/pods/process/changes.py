"""Which pods changed by themselves: each supervisor tells of ends on a connection that is kept, and ends it with itself."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from edgecore.pods.process.wire import Connection, Gone, lives
from proto.kit.clock import Clock

RELIST_S = 30.0  # for pods that another process of this node has begun
DYING_S, LOOKS = 0.01, 200  # the kernel ends connections of a process before its locks, by which it is seen to live


class Changes:
    """The state behind ``ContainerRuntime.changes``; one reader at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[str, Connection] = {}  # sandbox -> its supervisor
        self._dead: set[str] = set()  # told of already
        self._changed: dict[str, None] = {}  # uids, in order
        self._woken = asyncio.Event()
        self._watching = False

    def began(self, folder: Path, uid: str) -> None:
        """Watch a pod that was just made."""
        if self._watching:
            self._follow(folder, uid)

    async def watch(self, pods: Callable[[], Iterable[tuple[Path, str]]]) -> AsyncGenerator[str, None]:
        """Yield uids of pods; ends never. ``pods`` lists what there is to watch: folder and uid of each."""
        self._watching = True
        try:
            while True:
                listed = list(pods())
                for folder, uid in listed:
                    if folder.name not in self._watched and folder.name not in self._dead:
                        self._follow(folder, uid)
                self._dead &= {folder.name for folder, _ in listed}
                relist_at = self._clock.now_s() + RELIST_S
                while (left_s := relist_at - self._clock.now_s()) > 0:
                    while self._changed:
                        uid = next(iter(self._changed))
                        del self._changed[uid]
                        yield uid
                    self._woken.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(left_s):
                            await self._woken.wait()
        finally:
            self.close()

    def close(self) -> None:
        self._watching = False
        for name in list(self._watched):
            self._release(name)

    def _follow(self, folder: Path, uid: str) -> None:
        try:
            connection = Connection(folder)
        except Gone:  # perhaps just now, and nobody has looked since
            self._dead.add(folder.name)
            self._tell(uid)
            return
        self._watched[folder.name] = connection
        asyncio.get_running_loop().add_reader(connection, self._heard, folder, uid)
        with suppress(Gone):  # then its end is heard
            connection.send({"op": "watch"})

    def _heard(self, folder: Path, uid: str) -> None:
        try:
            message, _ = self._watched[folder.name].receive_now()
        except BlockingIOError:
            return
        if message is None:
            self._release(folder.name)
            self._dead.add(folder.name)
            self._tell_of_death(folder, uid, LOOKS)
        elif "ended" in message:
            self._tell(uid)

    def _tell_of_death(self, folder: Path, uid: str, looks: int) -> None:
        """Tell once whoever asks then is told the same: a reader that comes too early would not come again."""
        if looks and lives(folder):
            asyncio.get_running_loop().call_later(DYING_S, self._tell_of_death, folder, uid, looks - 1)
            return
        if not looks:
            self._dead.discard(folder.name)  # it lives, without our connection: followed again with the next list
        self._tell(uid)

    def _tell(self, uid: str) -> None:
        self._changed[uid] = None
        self._woken.set()

    def _release(self, name: str) -> None:
        connection = self._watched.pop(name)
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()

"""Plays a conversation against a broker over TCP and compares every byte that comes back."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

from proto.kit.database import Database
from proto.mqtt.broker import SCHEMA, BrokerSettings, MqttBroker
from proto.mqtt.identity import Identity, Verb
from tests.conformance.mqtt.wire import PINGREQ, PINGRESP, Step
from tests.kit.clock import ManualClock

TIMEOUT_S = 5.0
SETTINGS = BrokerSettings(max_packet_bytes=4096, receive_maximum=4, topic_alias_maximum=2, max_subscriptions=8)


def rights(identity: Identity, verb: Verb, topic: str) -> bool:
    return not topic.startswith("secret")


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.greeted = False  # the broker said something: it may be pinged

    async def packet(self) -> bytes:
        """Return one packet; b"" at the end of the connection."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(2), TIMEOUT_S)
            while head[-1] & 128:
                head += await asyncio.wait_for(self.reader.readexactly(1), TIMEOUT_S)
            length = sum((byte & 127) << 7 * at for at, byte in enumerate(head[1:]))
            body = await asyncio.wait_for(self.reader.readexactly(length), TIMEOUT_S)
            self.greeted = True
            return head + body
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


def matches(pattern: bytes | str, got: bytes) -> bool:
    if isinstance(pattern, bytes):
        return got == pattern
    wanted = pattern.split()
    if wanted[-1] == "*":
        wanted.pop()
        got = got[: len(wanted)]
    return len(got) == len(wanted) and all(w in ("??", f"{g:02x}") for w, g in zip(wanted, got, strict=True))


class Play:
    """One broker and the clients of one conversation."""

    def __init__(self, folder: Path | None) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.peers: dict[str, Peer] = {}

    async def __aenter__(self) -> Self:
        self.db = Database.open(self.folder / "broker.db", [SCHEMA]) if self.folder else None
        self.broker = MqttBroker(SETTINGS, db=self.db, acl=rights, clock=self.clock)
        self.port = await self.broker.listen("127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        for name in list(self.peers):
            await self._drop(name)
        await self.broker.close()
        if self.db is not None:
            await self.db.close()

    async def peer(self, name: str) -> Peer:
        if name not in self.peers:
            self.peers[name] = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        return self.peers[name]

    async def _drop(self, name: str) -> None:
        writer = self.peers.pop(name).writer
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def run(self, steps: list[Step]) -> None:
        for number, step in enumerate(steps):
            if step.what == "t":
                await self._pass_time(step.content)
                continue
            peer = await self.peer(step.client)
            if step.what == ">":
                peer.writer.write(step.content)
            elif step.what == "c":
                await self._drop(step.client)
            elif step.what == "x":
                got = await peer.packet()
                assert got == b"", f"step {number}: {got.hex(' ')} instead of the end of {step.client}"
                await self._drop(step.client)
            else:
                got = await peer.packet()
                assert matches(step.content, got), (
                    f"step {number}: {step.client} got {got.hex(' ')!r}, not {step.content!r}"
                )
        await self.silence()

    async def silence(self) -> None:
        """Nobody got more than the steps said: a ping is answered, with nothing before it."""
        for name, peer in self.peers.items():
            peer.writer.write(PINGREQ)
            got = await peer.packet()
            assert got == PINGRESP, f"{name} got {got.hex(' ')!r} after the last step"

    async def _pass_time(self, seconds: float) -> None:
        for peer in [one for one in self.peers.values() if one.greeted]:
            peer.writer.write(PINGREQ)  # everything before this moment was read
            assert await peer.packet() == PINGRESP
        self.clock.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)

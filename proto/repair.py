"""Comparison of what one end should hold with what it holds: root, buckets, keys (LINK-20 to LINK-24). Pure.

The end that sends a state lane drives the comparison of that lane; the other end answers.
"""

from collections.abc import Callable, Mapping
from enum import Enum

from proto import digest
from proto.frames import Answer, Ask, Inventory
from proto.kit.backoff import Rng

RETRY_S = 1.0
RETRY_CAP_S = 10.0
POLL_S = 0.5  # how often to look whether the informers have synced
KEY_OVERHEAD = 24  # digest, tags and lengths beside a key
ROUNDS = 1 << 31


class Stage(Enum):
    IDLE = "idle"
    WAITING = "waiting"  # a root is known, the own inventory is not synced
    BUCKETS = "buckets"
    KEYS = "keys"


class Repair:
    """The driving end. ``inventory`` returns what the peer should hold, None while that is not known."""

    def __init__(self, which: Inventory, inventory: Callable[[], Mapping[str, bytes] | None], rng: Rng) -> None:
        self.which = which
        self.inventory = inventory
        self.rng = rng
        self.stage = Stage.IDLE
        self.due_s: float | None = None
        self._round = rng.randrange(ROUNDS)
        self._outstanding: set[int] = set()
        self._root = b""
        self._tries = 0

    def compare(self, root: bytes, now_s: float) -> list[Ask]:
        """Start when the peer's ``root`` is not that of the inventory; no-op while a comparison runs."""
        if self.stage in (Stage.BUCKETS, Stage.KEYS):
            return []
        mine = self.inventory()
        if mine is None:  # LINK-23: no diff, so no delete, before everything is listed
            self.stage, self.due_s, self._root = Stage.WAITING, now_s + POLL_S, root
            return []
        self.stage, self.due_s, self._tries = Stage.IDLE, None, 0
        if digest.root(mine) == root:
            return []
        self.stage = Stage.BUCKETS
        self._round = (self._round + 1) % ROUNDS
        return [self._ask(now_s)]

    def answered(self, answer: Answer, now_s: float) -> tuple[list[str], list[Ask]]:
        """Return the keys that differ, and what to ask next. Answers of older rounds are ignored."""
        mine = self.inventory()
        if answer.round != self._round or mine is None:
            return [], []
        if self.stage is Stage.BUCKETS and answer.digests:
            self._outstanding = set(digest.differing(digest.buckets(mine), answer.digests))
            self._tries = 0
            if self._outstanding:
                self.stage = Stage.KEYS
                return [], [self._ask(now_s)]
            self._finish()
        elif self.stage is Stage.KEYS and answer.buckets:
            keys = self._compare_keys(mine, answer)
            if not self._outstanding:
                self._finish()
            return keys, []
        return [], []

    def tick(self, now_s: float) -> list[Ask]:
        """Ask again what was not answered; look again whether the inventory is known."""
        if self.due_s is None or now_s < self.due_s:
            return []
        if self.stage is Stage.WAITING:
            return self.compare(self._root, now_s)
        return [self._ask(now_s)]

    def _ask(self, now_s: float) -> Ask:
        ceiling = min(RETRY_CAP_S, RETRY_S * 2.0**self._tries)
        self._tries = min(self._tries + 1, 8)
        self.due_s = now_s + RETRY_S + ceiling * self.rng.random()
        return Ask(self.which, self._round, bytes(sorted(self._outstanding)) if self.stage is Stage.KEYS else b"")

    def _compare_keys(self, mine: Mapping[str, bytes], answer: Answer) -> list[str]:
        told = self._outstanding & set(answer.buckets)
        self._outstanding -= told
        size = digest.DIGEST_BYTES
        theirs = {k: answer.key_digests[i * size : i * size + size] for i, k in enumerate(answer.keys)}
        expected = {k: d for pairs in digest.members(mine, told).values() for k, d in pairs}
        differing = [key for key, value in expected.items() if theirs.get(key) != value]
        return differing + [key for key in theirs if key not in expected and digest.bucket_of(key) in told]

    def _finish(self) -> None:
        self.stage, self.due_s, self._tries = Stage.IDLE, None, 0


def answer(ask: Ask, held: Mapping[str, bytes], max_bytes: int) -> list[Answer]:
    """Return the answering end's frames: bucket digests, or complete buckets with their keys, page by page."""
    if not ask.buckets:
        return [Answer(ask.inventory, ask.round, digests=digest.buckets(held))]
    pages: list[Answer] = []
    numbers, keys, values, size = bytearray(), list[str](), bytearray(), 0
    for number, pairs in digest.members(held, ask.buckets).items():
        cost = 1 + sum(len(key.encode()) + KEY_OVERHEAD for key, _ in pairs)
        if numbers and size + cost > max_bytes:
            pages.append(Answer(ask.inventory, ask.round, b"", bytes(numbers), keys, bytes(values)))
            numbers, keys, values, size = bytearray(), [], bytearray(), 0
        numbers.append(number)
        size += cost
        for key, value in pairs:
            keys.append(key)
            values += value
    return [*pages, Answer(ask.inventory, ask.round, b"", bytes(numbers), keys, bytes(values))]

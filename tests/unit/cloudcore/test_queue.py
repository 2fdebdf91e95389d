"""The controllers' queue: each key at most once, retried with back-off, never given up for want of rights."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cloudcore.controllers.queue import KeyQueue
from cloudcore.kube.errors import ApiRefused, ApiUnavailable, Conflict, Forbidden, Gone, NotFound, from_status
from proto.kit.backoff import Rng
from tests.kit.clock import ManualClock


@asynccontextmanager
async def running(
    reconcile: Callable[[str], Awaitable[None]], clock: ManualClock, workers: int = 2
) -> AsyncIterator[KeyQueue[str]]:
    queue: KeyQueue[str] = KeyQueue("test", reconcile, workers=workers, clock=clock, rng=Rng(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(queue.run())
        yield queue
        task.cancel()


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_key_that_is_added_many_times_is_looked_at_once_and_again_if_it_changes_meanwhile() -> None:
    calls: list[str] = []
    gate = asyncio.Event()

    async def reconcile(key: str) -> None:
        calls.append(key)
        await gate.wait()

    async with running(reconcile, ManualClock()) as queue:
        for _ in range(5):
            queue.add("a")
        await turn()
        assert calls == ["a"]
        queue.add("a")
        await turn()
        assert calls == ["a"]
        gate.set()
        await turn()

    assert calls == ["a", "a"]


@pytest.mark.parametrize(
    ("error", "looks"),
    [
        (ApiUnavailable("away"), 2),
        (Forbidden(403, "Forbidden", "no right"), 2),
        (ApiRefused(422, "Invalid", "never"), 1),
        (RuntimeError("a mistake of ours"), 2),
    ],
)
async def test_what_may_pass_is_tried_again_and_what_never_will_is_not(error: Exception, looks: int) -> None:
    calls: Counter[str] = Counter()
    clock = ManualClock()

    async def reconcile(key: str) -> None:
        calls[key] += 1
        if calls[key] == 1:
            raise error

    async with running(reconcile, clock) as queue:
        queue.add("a")
        queue.add("b")
        await turn()
        clock.advance(1.0)
        await turn()

    assert calls == {"a": looks, "b": looks}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ApiUnavailable),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, ApiRefused),
        (429, ApiUnavailable),
        (503, ApiUnavailable),
    ],
)
def test_an_answer_becomes_an_error_by_its_code(status: int, kind: type[Exception]) -> None:
    error = from_status(status, {"message": "why", "reason": "Reason"}, "GET /x")

    assert type(error) is kind
    assert "why" in str(error)


def test_a_server_may_say_when_to_come_again() -> None:
    error = from_status(429, {"details": {"retryAfterSeconds": 7}}, "GET /x")

    assert isinstance(error, ApiUnavailable)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("body", [None, [], "text", {"details": "no object"}])
def test_a_body_that_is_no_status_is_no_trouble(body: object) -> None:
    assert "no message" in str(from_status(500, body, "GET /x"))

"""Run a daemon's long-lived tasks: signals, readiness to people and to systemd, watchdog, a clean end."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from proto.kit.clock import Clock, SystemClock
from proto.kit.commandline import loading
from proto.kit.log import Logger

log = Logger("daemon")
GC_THRESHOLDS = (10_000, 20, 50)  # Python's 700 walks the heap some 15 % of the time at thousands of messages a second


def notify(message: str) -> None:
    """Send ``message`` to systemd (sd_notify protocol); nothing without ``NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)


def ready(name: str, addresses: Mapping[str, str]) -> None:
    """Tell people and systemd that ``name`` serves: one line on standard output."""
    listed = " ".join(f"{k}={v}" for k, v in addresses.items())
    sys.stdout.write(f"{name} ready {listed}\n")
    sys.stdout.flush()
    notify("READY=1")


async def watchdog(clock: Clock) -> None:
    """Pet systemd's watchdog from the event loop at half its period, so a blocked loop is restarted."""
    period_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not period_us:
        return
    while True:
        notify("WATCHDOG=1")
        await clock.sleep(period_us / 2_000_000)


class Supervisor:
    """The long-lived tasks of one process. A task that fails ends the process, after its siblings were closed."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._error: BaseException | None = None  # of the first task that failed
        self._stop: asyncio.Event | None = None  # set by a signal or a failure

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Run ``work`` until the process ends; an exception in it stops the supervisor."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        self._error = self._error or task.exception()
        if self._stop is not None:
            self._stop.set()

    def listen_for_signals(self) -> None:
        """From now on SIGINT and SIGTERM end ``run_until_signal``; call it before saying ``ready``."""
        if self._stop is not None:
            return
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self._stop.set()  # Ctrl-C before now cancelled this task, and an await that was just done swallowed it

    async def run_until_signal(self) -> None:
        """Wait for SIGINT, SIGTERM or the failure of a task (raised here)."""
        self.listen_for_signals()
        assert self._stop is not None
        self.spawn(watchdog(self.clock), "watchdog")
        if self._error is None:
            await self._stop.wait()
        notify("STOPPING=1")
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Cancel every task and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def forever(step: Callable[[], Awaitable[None]], *, every_s: float, clock: Clock, name: str) -> None:
    """Call ``step`` now and every ``every_s`` seconds; an exception is logged and the next turn comes all the same."""
    while True:
        try:
            await step()
        except Exception:
            log.exception("periodic step failed", name=name)
        await clock.sleep(every_s)


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run ``main`` under uvloop and return its exit code."""
    with loading():
        import uvloop  # noqa: PLC0415  commands that are no daemon start without it

    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())

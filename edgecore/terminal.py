"""A person's terminal at one end of Channels: standard streams, raw mode, window size, exit code."""

import asyncio
import os
import signal
import sys
import termios
import tty as ttys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import msgspec

from proto.kit.canonical import UNREADABLE
from proto.kit.channels import ERROR, RESIZE, STDERR, STDIN, STDOUT, Channels, ChannelsClosed
from proto.kit.errors import SkerryError

BLOCK_BYTES = 64 << 10
EXIT_FAILED = 1


async def carry(channels: Channels, *, stdin: bool, tty: bool) -> int:
    """Carry bytes until the other side ends; return the exit code of what ran there. Raises SkerryError when it broke."""
    with raw(tty and sys.stdin.isatty()):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_from_person(channels)) if stdin else None
            resizing = group.create_task(_follow_size(channels)) if tty else None
            try:
                return await _to_person(channels)
            except ChannelsClosed as error:
                raise SkerryError(str(error)) from error
            finally:
                for task in (reading, resizing):
                    if task is not None:
                        task.cancel()
                await channels.close()


async def sized(channels: Channels) -> None:
    """Tell the other side how large this terminal is."""
    try:
        width, height = os.get_terminal_size()
    except OSError:
        return
    with suppress(ChannelsClosed):
        await channels.write(RESIZE, msgspec.json.encode({"Width": width, "Height": height}))


async def _to_person(channels: Channels) -> int:
    status = b""
    while (chunk := await channels.read()) is not None:
        if chunk.channel == ERROR:
            status += chunk.data
        elif chunk.data:
            out = sys.stderr if chunk.channel == STDERR else sys.stdout
            if chunk.channel in (STDOUT, STDERR):
                out.buffer.write(chunk.data)
                out.buffer.flush()
    return exit_code(status)


def exit_code(status: bytes) -> int:
    """The exit code in a metav1.Status; raises SkerryError for a failure that is no exit code."""
    if not status:
        return 0
    try:
        said = msgspec.json.decode(status, type=dict[str, object])
    except UNREADABLE:
        raise SkerryError(status.decode(errors="replace").strip()[:1000]) from None
    if said.get("status") != "Failure":
        return 0
    details = said.get("details")
    for cause in details.get("causes", []) if isinstance(details, dict) else []:
        if cause.get("reason") == "ExitCode" and str(cause.get("message", "")).isdigit():
            return int(cause["message"])
    raise SkerryError(str(said.get("message") or "the command failed"))


async def _from_person(channels: Channels) -> None:
    try:
        async for block in _blocks():
            await channels.write(STDIN, block)
        await channels.finish(STDIN)
    except ChannelsClosed:
        return  # said by whoever reads


async def _blocks() -> AsyncIterator[bytes]:
    """Standard input as it comes; a file is simply read.

    It stays as it is: on a terminal it is one thing with standard output, which may not become non-blocking, and it is needed to the end.
    """
    loop, descriptor, ready = asyncio.get_running_loop(), sys.stdin.fileno(), asyncio.Event()
    while True:
        try:
            loop.add_reader(descriptor, ready.set)
        except PermissionError:  # no pipe, socket or terminal: there is always something to read
            ready.set()
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        ready.clear()
        try:
            block = os.read(descriptor, BLOCK_BYTES)
        except OSError:  # the terminal is gone
            return
        if not block:
            return
        yield block


async def _follow_size(channels: Channels) -> None:
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            await sized(channels)
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def raw(really: bool) -> Iterator[None]:
    """Hand keys through as they are, Ctrl-C included."""
    if not really:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    ttys.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

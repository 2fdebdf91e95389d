"""A command as a person types it: its own process, with everything that it said and how it ended."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

COMMAND_S = 40.0


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code, standard output, standard error."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    @property
    def sentence(self) -> str:
        """What it said about a mistake: the last line, after argparse's usage if there is one."""
        return (self.err.splitlines() or [""])[-1]

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} ended with {self.code}:\n{self.err}{self.out}"


async def say(*argv: str, env: Mapping[str, str] | None = None) -> Said:
    """Run ``python -m ARGV`` to its end. Nobody is there to answer questions."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Said(argv, process.returncode, out.decode(), err.decode())


def failed(said: Said, code: int, words: str) -> None:
    """Check that a mistake got its exit code and one sentence with ``words`` in it, and never a traceback."""
    assert "Traceback" not in said.err, said
    assert said.code == code, said
    assert words in said.sentence, said
    usage = said.err.startswith("usage:")
    told = [line for line in said.err.splitlines() if " INFO " not in line]  # a daemon logs what it does before
    assert usage or len(told) == 1, said

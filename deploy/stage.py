"""What the demo and `make up` share: kubectl with the admin's rights, other people's commands, failures as one sentence."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND_WITHIN_S = 60.0


class StageError(Exception):
    """A step of the story failed; the text says which command and what it said."""


async def output(argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes | None = None) -> str:
    """Run a command to its end and return what it printed. Raises StageError with its own words."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        async with asyncio.timeout(COMMAND_WITHIN_S):
            out, err = await process.communicate(stdin)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise StageError(f"{' '.join(argv)} did not end within {COMMAND_WITHIN_S:g} s") from error
    if process.returncode:
        raise StageError(f"{' '.join(argv)} failed: {(err or out).decode(errors='replace').strip()}")
    return out.decode()


@dataclass
class Kubectl:
    """kubectl with the admin's kubeconfig and a cache of its own."""

    path: str
    kubeconfig: Path
    home: Path

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Return what ``kubectl arguments`` printed. Raises StageError."""
        env = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home)}
        return await output([self.path, *arguments], env=env, stdin=stdin)

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "-o", "json"))


def fresh_directory(path: Path) -> Path:
    """An empty directory at ``path`` (0700); what an earlier run left there is removed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    return path


def run(story: Coroutine[Any, Any, int]) -> int:
    """Run an async story; a failure or Ctrl-C is one sentence and an exit code."""
    try:
        return asyncio.run(story)
    except (StageError, AssertionError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command begins anew\n")
        return 130

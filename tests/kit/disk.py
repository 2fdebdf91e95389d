"""A disk small enough to fill: a tmpfs of its own under one folder (needs root, as CI has)."""

import asyncio
import contextlib
import os
from pathlib import Path

SIZE_MIB = 96
PIECE = bytes(1 << 20)


class SmallDisk:
    """``mount`` before use, ``unmount`` after; ``fill`` leaves not one byte, ``free`` gives the space back."""

    def __init__(self, path: Path, size_mib: int = SIZE_MIB) -> None:
        self.path = path
        self._size_mib = size_mib
        self._filler = path / "filler"

    async def mount(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)
        await _run("mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m,mode=0700", "tmpfs", str(self.path))

    async def unmount(self) -> None:
        await _run("umount", "-l", str(self.path))

    def fill(self) -> None:
        """Take every byte that is left: real ENOSPC for whoever writes next."""
        descriptor = os.open(self._filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            for piece in (PIECE, PIECE[:4096], PIECE[:1]):
                with contextlib.suppress(OSError):
                    while os.write(descriptor, piece):
                        pass
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 0, f"{' '.join(argv)}: {err.decode()}"

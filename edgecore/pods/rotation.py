"""Rotation of container logs: ``0.log`` becomes ``0.log.00000001`` and so on, and the runtime opens a new one (POD-11).

Numbers grow, so that the names of rotated files sort from the oldest to the newest, whatever the clock does.
"""

from contextlib import suppress
from pathlib import Path

from edgecore.pods.runtime import Container, ContainerRuntime, RuntimeAway, RuntimeRefused
from proto.kit.log import Logger

log = Logger("pods")


async def rotate(runtime: ContainerRuntime, container: Container, max_bytes: int, files: int) -> bool:
    """Rotate the log of a running container when it is larger than ``max_bytes``; keep ``files`` of them in all."""
    path = Path(container.log_path)
    aside = _moved(path, max_bytes, files)
    if aside is None:
        return False
    try:
        await runtime.reopen_log(container.id)
    except (RuntimeAway, RuntimeRefused) as error:
        log.warning("log not reopened", file=path, reason=error)
        _move_back(path, aside)
        return False
    return True


def _moved(path: Path, max_bytes: int, files: int) -> Path | None:
    """Put the log aside when it is too large; return where it is now."""
    try:
        if path.stat().st_size <= max_bytes:
            return None
        older = rotated(path)
        for file in older[: max(0, len(older) - files + 2)]:
            file.unlink(missing_ok=True)
        newest = int(older[-1].suffix[1:]) if older else 0
        return path.rename(path.with_name(f"{path.name}.{newest + 1:08d}"))
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("log not rotated", file=path, reason=error)
        return None


def _move_back(path: Path, aside: Path) -> None:
    """The runtime still writes to the file: let it be found under its own name."""
    with suppress(OSError):
        if not path.exists():
            aside.rename(path)


def rotated(path: Path) -> list[Path]:
    """The rotated files of a log, oldest first."""
    return sorted(file for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdigit())

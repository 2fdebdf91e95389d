"""Rotation of container logs: ``0.log`` becomes ``0.log.1``, and the runtime opens a new one (POD-11)."""

from contextlib import suppress
from pathlib import Path

from edgecore.pods.runtime import Container, ContainerRuntime, RuntimeAway, RuntimeRefused
from proto.kit.log import Logger

log = Logger("pods")


async def rotate(runtime: ContainerRuntime, container: Container, max_bytes: int, files: int) -> bool:
    """Rotate the log of a running container when it is larger than ``max_bytes``; keep ``files`` of them in all."""
    path = Path(container.log_path)
    if not _moved(path, max_bytes, files):
        return False
    try:
        await runtime.reopen_log(container.id)
    except (RuntimeAway, RuntimeRefused) as error:
        log.warning("log not reopened", file=path, reason=error)
        _move_back(path)
        return False
    return True


def _moved(path: Path, max_bytes: int, files: int) -> bool:
    try:
        if path.stat().st_size <= max_bytes:
            return False
        numbered(path, files - 1).unlink(missing_ok=True)
        for number in range(files - 2, 0, -1):
            with suppress(FileNotFoundError):
                numbered(path, number).rename(numbered(path, number + 1))
        path.rename(numbered(path, 1))
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("log not rotated", file=path, reason=error)
        return False
    return True


def _move_back(path: Path) -> None:
    """The runtime still writes to the file: let it be found under its own name."""
    with suppress(OSError):
        if not path.exists():
            numbered(path, 1).rename(path)


def numbered(path: Path, number: int) -> Path:
    """The log that is ``number`` rotations old."""
    return path.with_name(f"{path.name}.{number}")

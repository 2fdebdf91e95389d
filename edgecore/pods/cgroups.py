"""The cgroups of pods, which runtimes make and never remove: one below each hierarchy of v1, or the one of v2 (VOL-9)."""

import errno
import os
from pathlib import Path

from edgecore.pods import mounts
from edgecore.pods.resources import CGROUPS
from proto.kit.errors import Retryable

CLASSES = ("", "burstable", "besteffort")
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)  # a unit that may not write there: the next boot clears them


class StillRunning(Retryable):
    """Processes of the pod have not ended yet."""

    code = "StillRunning"


def remove(uid: str, roots: list[Path] | None = None) -> None:
    """Remove the pod's cgroups; right again at any time. Raises StillRunning."""
    for root in hierarchies() if roots is None else roots:
        for name in CLASSES:
            _remove(root / CGROUPS / name / f"pod{uid}")


def hierarchies() -> list[Path]:
    """Return where the cgroup hierarchies are mounted, each once. Raises OSError."""
    return [Path(path) for path in dict.fromkeys(m.path for m in mounts.table() if m.kind in {"cgroup", "cgroup2"})]


def _remove(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in NOT_OURS:
                return
            raise StillRunning(f"{folder} is in use: {error.strerror}") from error

"""The cgroups of pods, which runtimes make, never weigh and never remove: in each hierarchy of v1, or in the one of v2 (VOL-9, VOL-10).

A container's CPU weight counts among its siblings only, so its pod and the class of its pod are weighed by what they ask for.
"""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from edgecore.pods import mounts
from edgecore.pods.admission import requested
from edgecore.pods.resources import CGROUPS, MAX_SHARES, MIN_SHARES, shares
from kubeapi.pod_defaults import qos_class
from proto.kit.errors import Retryable

Json = dict[str, Any]
BURSTABLE = "burstable"
CLASSES = ("", BURSTABLE, "besteffort")
MAX_WEIGHT = 10_000  # of cgroup v2; the least is 1
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)  # a unit that may not write there: the next boot clears them


class StillRunning(Retryable):
    """Processes of the pod have not ended yet."""

    code = "StillRunning"


def remove(uid: str, roots: list[Path] | None = None) -> None:
    """Remove the pod's cgroups; right again at any time. Raises StillRunning."""
    for root in hierarchies() if roots is None else roots:
        for name in CLASSES:
            _remove(root / CGROUPS / name / f"pod{uid}")


def remove_classes(roots: list[Path] | None = None) -> None:
    """Remove the cgroups above those of pods, where no pod is left."""
    for root in hierarchies() if roots is None else roots:
        for name in sorted(CLASSES, reverse=True):  # the topmost last
            with suppress(OSError):  # not there, another node's pods are in it, or we may not write there
                (root / CGROUPS / name).rmdir()


def weigh(pod: Json, others: Iterable[Json], roots: list[Path] | None = None) -> None:
    """Weigh the cgroups of a pod and of its class by their CPU requests, where the runtime has made them.

    ``others``: all pods of the node, asked for where they matter. What may not be written stays as it is.
    """
    name = qos_class(pod["spec"]).lower()
    below = "" if name == "guaranteed" else name
    mine = requested(pod, "cpu")
    both = sum(requested(p, "cpu") for p in others if qos_class(p["spec"]) == "Burstable") if below == BURSTABLE else 0
    for root in _weighing() if roots is None else roots:
        for folder in _folders(root, below, pod["metadata"]["uid"]):
            _write(folder, mine)
            if below:
                _write(folder.parent, both)


def _folders(root: Path, below: str, uid: str) -> list[Path]:
    """Return the pod's cgroup in one hierarchy, by either way of naming it; none when the runtime made none."""
    plain = root / CGROUPS / below / f"pod{uid}"
    slices = root
    name = ""
    for part in (CGROUPS, below, f"pod{uid}"):
        if part:
            name = "-".join(filter(None, (name, part.replace("-", "_"))))
            slices /= f"{name}.slice"
    return [folder for folder in (plain, slices) if folder.is_dir()]


def _write(folder: Path, milli: int) -> None:
    value = shares(milli)
    weight = 1 + (value - MIN_SHARES) * (MAX_WEIGHT - 1) // (MAX_SHARES - MIN_SHARES)
    for file, text in (("cpu.shares", value), ("cpu.weight", weight)):
        with suppress(OSError):  # a unit that may not write there: the pods still run
            if (folder / file).exists():
                (folder / file).write_text(str(text))


def hierarchies() -> list[Path]:
    """Return where the cgroup hierarchies are mounted, each once. Raises OSError."""
    return [Path(path) for path in dict.fromkeys(m.path for m in mounts.table() if m.kind in {"cgroup", "cgroup2"})]


@cache
def _weighing() -> tuple[Path, ...]:
    """The hierarchies that weigh CPU; a boot mounts them, once."""
    marks = ("cpu.shares", "cgroup.controllers")
    return tuple(root for root in hierarchies() if any((root / mark).exists() for mark in marks))


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

"""Runs inside what bubblewrap made, as the container's first process: the container's root lies at ``ROOT``, and becomes the root."""

from __future__ import annotations

import marshal
import os
import sys

from edgecore.pods.process.shim import enter, linux

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing, json, socket and signal would take longer than all the rest of a container's start
    from typing import Any

    Json = dict[str, Any]
ROOT = "/c"
STAGED = "s"  # told first: bubblewrap has done its part
HIDDEN = ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
FROZEN = ("bus", "fs", "irq", "sys", "sysrq-trigger")
COVERED = ("sys", "sysrq-trigger", "irq", "bus")  # what bubblewrap itself makes read-only in /proc


def main() -> None:
    plan_fd, error_fd, console = map(int, sys.argv[1:4])
    os.write(error_fd, STAGED.encode())
    with os.fdopen(plan_fd, "rb") as file:
        file.seek(0)
        plan: Json = marshal.load(file)  # noqa: S302  of our own supervisor, the same Python
    if console >= 0:
        import socket  # noqa: F401, PLC0415  enter.terminal needs it, and Python's own files are gone by then
    try:
        os.setsid()
    except OSError:
        pass  # leads a session already
    try:
        arrange(plan)
    except OSError as error:
        os.write(error_fd, f"{error.filename or 'mount'}: {error.strerror}".encode())
        os._exit(enter.NOT_FOUND)
    enter.run(plan, plan["argv"], dict(plan["env"]), console, error_fd)


def arrange(plan: Json) -> None:
    """Finish the mounts and make the container's root the root. Raises OSError."""
    for target, propagation in plan["targets"]:
        if propagation == "None":
            linux.mount("", ROOT + target, "", linux.MS_PRIVATE | linux.MS_REC)
    _proc(unmasked=bool(plan["unmasked"]))
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NODEV
    linux.mount("", ROOT, "", flags | (linux.MS_RDONLY if plan["readonly"] else 0))
    os.chdir(ROOT)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir("/")


def _proc(*, unmasked: bool) -> None:
    proc = f"{ROOT}/proc"
    if unmasked:
        for name in COVERED:
            try:
                linux.unmount(f"{proc}/{name}")
            except OSError:
                continue
        return
    for name in FROZEN:
        path = f"{proc}/{name}"
        if os.path.exists(path):
            linux.mount(path, path, "", linux.MS_BIND | linux.MS_REC)
            linux.mount(
                "",
                path,
                "",
                linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
            )
    for path in (*(f"{proc}/{name}" for name in HIDDEN), f"{ROOT}/sys/firmware"):
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV, "size=0k,mode=755")
        elif os.path.exists(path):
            linux.mount(f"{ROOT}/dev/null", path, "", linux.MS_BIND)

"""Where the files of pods are: on disk below ``<data-dir>/pods/<uid>``, secrets below a tmpfs of the machine (VOL-1)."""

import os
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from edgecore.pods import mounts, trees
from proto.kit.errors import Retryable
from proto.kit.log import Logger

log = Logger("pods")
UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9.]{0,127}")
TMPFS_HOMES = (Path("/run/skerry"), Path("/dev/shm/skerry"))  # noqa: S108  a folder of root's own is made in there
SUBPATHS = "subpaths"
MAX_FILE_NAME = 255  # bytes; a pod's name alone may have 253


class StillMounted(Retryable):
    """A mount below a pod's directory does not go away; nothing was deleted."""

    code = "StillMounted"


class PodDirs:
    """The directories of pods. ``mounting``: a mount made here is seen by the containers."""

    def __init__(self, data_dir: Path, *, memory: Path | None, mounting: bool) -> None:
        self.disk = data_dir / "pods"
        self.logs = data_dir / "logs"
        self.memory = memory
        self.mounting = mounting

    def pod(self, uid: str) -> Path:
        """Return the pod's directory. Raises ValueError for a uid that is no file name."""
        if not UID.fullmatch(uid):
            raise ValueError(f"{uid!r} is no uid of a pod")
        return self.disk / uid

    def volume(self, uid: str, name: str, *, memory: bool = False) -> Path:
        own = self.pod(uid)
        return self.memory / uid / name if memory and self.memory is not None else own / "volumes" / name

    def container(self, uid: str, name: str) -> Path:
        return self.pod(uid) / "containers" / name

    def subpath(self, uid: str, container: str, index: int) -> Path:
        return self.pod(uid) / SUBPATHS / container / str(index)

    def log_dir(self, namespace: str, name: str, uid: str) -> Path:
        self.pod(uid)
        room = MAX_FILE_NAME - len(namespace) - len(uid) - 2
        return self.logs / f"{namespace}_{name[:room]}_{uid}"

    def uids(self) -> set[str]:
        """Return the uids of all pods that have left something here."""
        found = {entry.name for root in (self.disk, self.memory) for entry in _entries(root)}
        found |= {entry.name.rpartition("_")[2] for entry in _entries(self.logs)}
        return {uid for uid in found if UID.fullmatch(uid)}

    def delete(self, uid: str) -> None:
        """Unmount and delete everything of one pod; right again after a crash. Raises StillMounted, OSError."""
        self._delete(uid, self.pod(uid))
        for entry in _entries(self.logs):
            if entry.name.endswith(f"_{uid}"):
                trees.remove(entry)

    def delete_volumes(self, uid: str) -> None:
        """Delete what the volumes of a pod that has ended hold here; what its containers left to say stays. Raises as ``delete``."""
        self._delete(uid, self.pod(uid) / "volumes")

    def _delete(self, uid: str, top: Path) -> None:
        own = self.pod(uid)
        roots = [top] if self.memory is None else [top, self.memory / uid]
        for root in (own, *roots[1:]):
            if root.exists():
                _unmount(root)
        placeholders = own / SUBPATHS
        if placeholders.exists():
            _empty_placeholders(placeholders)
        for root in roots:
            if root.exists():
                trees.remove(root)


def memory_home(data_dir: Path) -> Path | None:
    """Return the folder on a tmpfs where this data directory's secrets lie; None when the machine has no tmpfs for us.

    A plain folder on a tmpfs that is there already needs no right to mount, and every runtime sees it.
    """
    name = sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:12]
    usable = []
    for home in TMPFS_HOMES:
        found = mounts.covering(home)
        if found is not None and found.kind in {"tmpfs", "ramfs"} and _writable(home):
            usable.append((("noexec" in found.options), home / name))
    if not usable:
        log.warning("secrets of pods rest on the disk: neither /run nor /dev/shm is a tmpfs that we may write")
        return None
    return min(usable, key=lambda pair: pair[0])[1]


def plans_home(data_dir: Path) -> Path | None:
    """Return the folder beside it for what plain processes are started with."""
    home = memory_home(data_dir)
    return None if home is None else home.with_name(f"{home.name}-plans")


def may_mount(data_dir: Path, *, child: bool) -> bool:
    """Whether a mount below ``data_dir`` can be made and is seen by containers; ``child``: they are started by us.

    In a mount namespace of our own (a hardened unit) it would be lost with this process, so plain folders serve there.
    """
    if os.geteuid() != 0 or not mounts.in_host_namespace() or not mounts.permitted():
        return False
    return child or mounts.shared(data_dir)


def _writable(home: Path) -> bool:
    try:
        home.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    status = home.lstat()
    return not home.is_symlink() and status.st_uid == os.geteuid() and os.access(home, os.W_OK)


def _entries(root: Path | None) -> list[Path]:
    if root is None:
        return []
    with suppress(OSError):
        return list(root.iterdir())
    return []


def _unmount(root: Path) -> None:
    """Raises StillMounted, so that nothing below a foreign mount is ever deleted."""
    for path in mounts.below(root):
        with suppress(OSError):
            mounts.unmount(path)
    left = mounts.below(root)
    if left:
        raise StillMounted(f"{left[0]} cannot be unmounted: nothing of the pod was deleted")


def _empty_placeholders(root: Path) -> None:
    """Remove mount points only: one that still shows something is not empty, and stays with an error."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(folder) / name
            if path.lstat().st_size:
                raise StillMounted(f"{path} still shows a volume: nothing of the pod was deleted")
            path.unlink()
        Path(folder).rmdir()

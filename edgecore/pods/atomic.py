"""Write the files of a volume so that readers see all of the old or all of the new (VOL-2).

Layout, as Kubernetes' clients know it: ``..TIME.RANDOM/`` holds the files, ``..data`` points at it, and each visible name is a
link through ``..data``. One rename of ``..data`` changes everything. Right again after a crash at any point.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from edgecore.pods import ownership
from edgecore.pods.projected import File
from proto.kit.clock import Clock

DATA, NEXT = "..data", "..data_tmp"
DIRECTORY_MODE = 0o755
MAX_HELD_BYTES = 16 << 20  # more than the API lets an object have


def write(volume: Path, files: Mapping[str, File], clock: Clock, *, group: int | None = None) -> bool:
    """Make ``volume`` hold exactly ``files``; whether anything changed. ``group`` owns and reads them. Raises OSError."""
    wanted = {path: File(f.content, f.mode | (0o440 if group is not None else 0), f.uid) for path, f in files.items()}
    _directory(volume, 0o777, group)
    current = _current(volume)
    if current is not None and _same(volume / current, wanted, group) and _visible(volume) == _tops(wanted):
        _tidy(volume, current)
        return False
    fresh = f"..{clock.wall():%Y_%m_%d_%H_%M_%S}.{os.urandom(4).hex()}"
    _fill(volume / fresh, wanted, group)
    (volume / NEXT).unlink(missing_ok=True)
    (volume / NEXT).symlink_to(fresh)
    (volume / NEXT).rename(volume / DATA)
    for name in sorted(_tops(wanted) - _visible(volume)):
        _remove(volume / name)
        (volume / name).symlink_to(f"{DATA}/{name}")
    _tidy(volume, fresh)
    return True


def read(volume: Path, path: str) -> bytes | None:
    """Return what a file holds now; None when there is none."""
    try:
        with (volume / DATA / path).open("rb") as file:
            return file.read(MAX_HELD_BYTES)
    except OSError:
        return None


def _current(volume: Path) -> str | None:
    try:
        target = str((volume / DATA).readlink())
    except OSError:
        return None
    return target if target.startswith("..") and "/" not in target and (volume / target).is_dir() else None


def _same(folder: Path, wanted: Mapping[str, File], group: int | None) -> bool:
    found: set[str] = set()
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            key = path.relative_to(folder).as_posix()
            file = wanted.get(key)
            if file is None:
                return False
            status = path.lstat()
            owner = (file.uid or 0 if os.geteuid() == 0 else status.st_uid, status.st_gid if group is None else group)
            if (status.st_uid, status.st_gid) != owner or status.st_mode & 0o777 != file.mode:
                return False
            if status.st_size != len(file.content) or path.read_bytes() != file.content:
                return False
            found.add(key)
    return found == set(wanted)


def _fill(folder: Path, files: Mapping[str, File], group: int | None) -> None:
    _directory(folder, DIRECTORY_MODE, group)
    for key, file in files.items():
        path = folder
        for part in key.split("/")[:-1]:
            path /= part
            _directory(path, DIRECTORY_MODE, group)
        path = folder / key
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(file.content)
        if file.uid or group is not None:
            os.chown(path, file.uid or -1, -1 if group is None else group)
        path.chmod(file.mode)


def _directory(path: Path, mode: int, group: int | None) -> None:
    path.mkdir(exist_ok=True)
    if group is not None:
        os.chown(path, -1, group)
        mode |= 0o2000
    ownership.set_mode(path, mode)


def _tops(files: Mapping[str, File]) -> set[str]:
    return {key.partition("/")[0] for key in files}


def _visible(volume: Path) -> set[str]:
    out = set()
    for entry in os.scandir(volume):
        if not entry.name.startswith("..") and entry.is_symlink():
            with suppress(OSError):
                if str(Path(entry.path).readlink()) == f"{DATA}/{entry.name}":
                    out.add(entry.name)
    return out


def _tidy(volume: Path, current: str) -> None:
    """Remove what a crash or the version before left; names whose file is gone go too."""
    for entry in os.scandir(volume):
        path = Path(entry.path)
        if entry.name in {DATA, current}:
            continue
        if entry.name.startswith("..") or not (volume / current / entry.name).exists():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Backup and restore of a data directory: one tar file with the databases, the keys and the settings.

A backup is taken while serving: SQLite's online backup gives each database as of one moment. A restore goes through a
staging directory, so that an interrupted one is seen, refused by the daemon, and finished by running it again.
"""

import contextlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cloudcore.data_dir import lock
from cloudcore.settings import FILE_NAME, Settings
from kubeapi.backup import skip_revisions
from proto.kit import files
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import connect, quick_check
from proto.kit.errors import Terminal, UsageError
from proto.kit.version import VERSION

FORMAT = 1
MANIFEST = "manifest.json"
OBJECTS = "kube.db"
DATABASES = ("cloud.db", OBJECTS, "broker.db")
KEYS = "pki"
STAGED = "restore.staged"
MOVING = ".moving"  # in it, once old data may have been moved away: then nothing may start on what is left
MAX_MEMBER_BYTES = 64 << 30  # a database is bounded by its disk; a member beyond this is no backup of ours
MAX_MANIFEST_BYTES = 64 << 10


class Manifest(msgspec.Struct, frozen=True):
    """First member of every backup."""

    format: int
    version: str
    created_at: str
    parts: tuple[str, ...]
    external: tuple[str, ...] = ()  # what is kept elsewhere and must be saved there


class NoBackup(Terminal):
    """The file is no backup of cloudcore, or a damaged one."""

    code = "NoBackup"


def backup(data_dir: Path, file: Path, settings: Settings, clock: Clock) -> Manifest:
    """Write ``file`` (0600), complete or not at all. Raises UsageError, DatabaseDamaged."""
    if not data_dir.is_dir():
        raise UsageError(f"data directory {data_dir} does not exist: nothing to save")
    external = ("history.database",) if settings.database_url(data_dir).startswith("postgresql") else ()
    parts = tuple(part for part in _parts(data_dir) if not (part == "cloud.db" and external))
    manifest = Manifest(FORMAT, VERSION, rfc3339(clock.wall()), parts, external)
    try:
        with tempfile.TemporaryDirectory(prefix=".skerry-backup-", dir=file.absolute().parent) as name:
            folder = Path(name)
            made = folder / "backup.tar"
            _pack(data_dir, folder, made, manifest)
            made.replace(file)
            files.sync_dir(file.absolute().parent)
    except OSError as error:
        raise UsageError(f"backup {file}: {error.strerror or error}") from error
    return manifest


def restore(data_dir: Path, file: Path) -> Manifest:
    """Put ``file`` back; what was there moves to a ``replaced-…`` directory. Raises NoBackup, AlreadyRunning.

    The caller renews the cloud's incarnation, then calls ``finish``; until then nothing serves here.
    """
    with lock(data_dir):
        staged = data_dir / STAGED
        _make_empty(staged)
        try:
            manifest = _unpack(file, staged)
            if OBJECTS in manifest.parts:
                skip_revisions(staged / OBJECTS)
        except BaseException:
            if not (staged / MOVING).exists():
                shutil.rmtree(staged, ignore_errors=True)
            raise
        (staged / MOVING).touch(0o600)
        files.sync_dir(staged)
        replaced = _free_name(data_dir)
        replaced.mkdir(mode=0o700)
        for part in (*DATABASES, KEYS, FILE_NAME):
            for name in (part, f"{part}-wal", f"{part}-shm"):
                if (data_dir / name).exists():
                    (data_dir / name).rename(replaced / name)
        for part in manifest.parts:
            (staged / part).rename(data_dir / part)
        files.sync_dir(data_dir)
    return manifest


def finish(data_dir: Path) -> None:
    """Say that the restore is complete."""
    shutil.rmtree(data_dir / STAGED)
    files.sync_dir(data_dir)


def interrupted(data_dir: Path) -> bool:
    """Whether a restore did not come to its end here."""
    return (data_dir / STAGED).exists()


def _make_empty(folder: Path) -> None:
    """Empty ``folder`` or make it; what says that a restore is not finished is there all the time."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MOVING:
            path.unlink()


def _parts(data_dir: Path) -> Iterator[str]:
    for name in (*DATABASES, KEYS, FILE_NAME):
        if (data_dir / name).exists():
            yield name


def _pack(data_dir: Path, folder: Path, target: Path, manifest: Manifest) -> None:
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
            tar.add(folder / MANIFEST, MANIFEST)
            for part in manifest.parts:
                source = data_dir / part
                if part in DATABASES:
                    source = folder / part
                    _copy_database(data_dir / part, source)
                tar.add(source, part, filter=_plain)
                if part in DATABASES:
                    source.unlink()
        out.flush()
        os.fsync(out.fileno())


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if (member.isfile() or member.isdir()) and not Path(member.name).name.startswith(".") else None


def _copy_database(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_RDWR, 0o600))
    with contextlib.closing(connect(source, read_only=True)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)
        quick_check(new, source)


def _unpack(file: Path, staged: Path) -> Manifest:
    try:
        with tarfile.open(file) as tar:
            first = tar.next()
            if first is None or first.name != MANIFEST or first.size > MAX_MANIFEST_BYTES:
                raise NoBackup(f"{file} is no backup of cloudcore")
            content = tar.extractfile(first)
            manifest = msgspec.json.decode(content.read() if content else b"", type=Manifest)
            if manifest.format != FORMAT:
                raise NoBackup(
                    f"{file} was written by cloudcore {manifest.version}, in a form this version cannot read"
                )
            for member in tar:
                if member.offset == first.offset:
                    continue
                _check(file, member, manifest)
                _put(tar, member, staged)
    except OSError as error:
        raise UsageError(f"backup {file}: {error.strerror or error}") from error
    except (tarfile.TarError, msgspec.DecodeError, EOFError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0].rstrip(":")
        raise NoBackup(f"{file} is no backup of cloudcore, or a damaged one ({reason})") from error
    for part in manifest.parts:
        if not (staged / part).exists():
            raise NoBackup(f"{file} is damaged: {part} is missing")
        if part in DATABASES:
            with contextlib.closing(connect(staged / part, read_only=True)) as conn:
                quick_check(conn, staged / part)
    for path in staged.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return manifest


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, staged: Path) -> None:
    """Write one checked member. Not by tarfile's own extraction: Python before 3.11.4 has no safe one."""
    target = staged / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = tar.extractfile(member)
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as out:
        if content is not None:
            shutil.copyfileobj(content, out)
        if out.tell() != member.size:
            raise EOFError("it ends too early")


def _check(file: Path, member: tarfile.TarInfo, manifest: Manifest) -> None:
    top = member.name.split("/", 1)[0]
    allowed = {*DATABASES, KEYS, FILE_NAME}
    plain = (member.isfile() or member.isdir()) and ".." not in member.name.split("/")
    if not plain or top not in manifest.parts or top not in allowed or member.size > MAX_MEMBER_BYTES:
        raise NoBackup(f"{file} is no backup of cloudcore: {member.name[:80]!r} does not belong into one")


def _free_name(data_dir: Path) -> Path:
    number = 1
    while (data_dir / f"replaced-{number}").exists():
        number += 1
    return data_dir / f"replaced-{number}"

"""The image store: ``<data-dir>/images/{records,roots,partial}``. What an image says is a record; what it unpacks to is a root,
named by the digests of its layers, so that images of the same layers share one (PROC-7).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgecore.pods import usage
from edgecore.pods.process import boot, wire
from edgecore.pods.process.records import save
from edgecore.pods.references import parse
from edgecore.pods.runtime import Auth, Filesystem, Image, NoSuch, RuntimeAway, RuntimeRefused
from proto.kit.clock import Clock

HOST = "host"  # not an image: the node's own root file system, read-only
HOST_NAMES = frozenset({HOST, "docker.io/library/host:latest"})
IMPORT_S = 1800.0
LOCK_PAUSE_S = 0.05
MAX_ANSWER_BYTES = 1 << 20
BAD_ARCHIVE = "InvalidArchive"
FULL = "no space left"


class Settings(msgspec.Struct, rename="pascal"):
    """What an image's configuration says of its containers."""

    User: str = msgspec.field(default="", name="User")
    Env: list[str] | None = msgspec.field(default=None, name="Env")
    Entrypoint: list[str] | None = msgspec.field(default=None, name="Entrypoint")
    Cmd: list[str] | None = msgspec.field(default=None, name="Cmd")
    WorkingDir: str = msgspec.field(default="", name="WorkingDir")
    StopSignal: str = msgspec.field(default="", name="StopSignal")


class Record(msgspec.Struct):
    """One image; ``chain`` names its root."""

    id: str
    tags: list[str] = []
    digests: list[str] = []
    size_bytes: int = 0
    chain: str = ""
    config: Settings = msgspec.field(default_factory=Settings)


class _Answer(msgspec.Struct):
    """What the unpacking child prints."""

    images: list[Record] = []
    error: str = ""
    store: bool = False  # the error is this machine's, not the archive's


class ImageStore:
    """One per node; several processes may use it at once (the daemon and a command)."""

    def __init__(self, folder: Path, clock: Clock, in_use: Any) -> None:
        self.folder, self._clock = folder, clock
        self._in_use = in_use  # () -> chains that containers stand on

    def root(self, record: Record) -> Path:
        return Path("/") if record.id == HOST else self.folder / "roots" / record.chain / "root"

    def find(self, reference: str) -> Record | None:
        """Return the image by id, tag or digest."""
        if reference in HOST_NAMES:
            return Record(HOST, tags=sorted(HOST_NAMES))
        names = {reference}
        with contextlib.suppress(ValueError):
            full = parse(reference)
            names.add(str(full))
            if full.digest:
                names.add(f"{full.name}@{full.digest}")
        for record in self.records():
            known = {record.id, record.id.removeprefix("sha256:"), *record.tags, *record.digests}
            if names & known:
                return record
        return None

    def records(self) -> Iterator[Record]:
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((self.folder / "records").iterdir()):
                if path.suffix == ".json":
                    with contextlib.suppress(OSError, msgspec.MsgspecError):  # removed meanwhile, or damaged: not there
                        yield msgspec.json.decode(path.read_bytes(), type=Record)

    def images(self) -> list[Image]:
        return [_image(record) for record in self.records()]

    def image(self, reference: str) -> Image | None:
        record = self.find(reference)
        return None if record is None else _image(record)

    async def remove(self, image_id: str) -> None:
        record = self.find(image_id)
        if record is None or record.id == HOST:
            return
        async with self._locked():
            self._path(record.id).unlink(missing_ok=True)
            await asyncio.to_thread(self._sweep)

    async def take(self, archive: Path, names: tuple[str, ...] = ()) -> list[str]:
        """Import an archive, or a folder that is an OCI layout. Returns references. Raises RuntimeRefused, RuntimeAway."""
        if not await asyncio.to_thread(archive.exists):
            raise RuntimeRefused(f"cannot read {archive}: no such file", BAD_ARCHIVE)
        async with self._locked():
            await asyncio.to_thread(self._sweep)
            answer = await self._unpack(archive, names)
            if answer.error:
                await asyncio.to_thread(self._sweep)
                said = answer.error if answer.store else f"{archive}: {answer.error}"
                raise RuntimeRefused(said, "" if answer.store or FULL in answer.error else BAD_ARCHIVE)
            brought = [name for record in answer.images for name in record.tags or record.digests]
            for record in answer.images:
                self._keep(record)
        return list(dict.fromkeys(brought))

    async def pull(self, reference: str, auth: Auth | None) -> str:
        """Bring an image from its registry; returns its id. Raises NoSuch, RuntimeRefused, RuntimeAway."""
        from edgecore.pods.process import registry  # noqa: PLC0415  many gateways never pull

        folder = self.folder / "pulls" / secrets.token_hex(8)
        folder.mkdir(parents=True, mode=0o700)
        lock = os.open(folder / wire.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as long as it is held, nobody sweeps the folder
            layout = folder / "layout"
            wanted = registry.download(reference, auth, layout, os.uname().machine)
            try:
                _, manifest, config = await wanted.manifest()
                if not (self.folder / "roots" / _chain(config)).exists():
                    await wanted.layers(manifest)
                await self.take(layout, (str(parse(reference)),))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RuntimeRefused(
                    f"{reference}: the registry's answer is no image: {error}", "ErrImagePull"
                ) from error
            except OSError as error:
                raise RuntimeRefused(f"{reference}: {error.strerror or error}".lower(), "ErrImagePull") from error
            return str(manifest["config"]["digest"])
        finally:
            os.close(lock)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def filesystem(self) -> Filesystem:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        return Filesystem(str(self.folder), usage.of(self.folder))

    async def _unpack(self, archive: Path, names: tuple[str, ...]) -> _Answer:
        for name in ("records", "roots", "partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        child = await asyncio.create_subprocess_exec(
            *boot.argv("unpack", str(archive), str(self.folder), *names),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_ANSWER_BYTES,
        )
        try:
            async with asyncio.timeout(IMPORT_S):
                out, errors = await child.communicate()
        except TimeoutError as error:
            raise RuntimeAway(f"{archive} was not unpacked within {IMPORT_S:.0f} s") from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        try:
            return msgspec.json.decode(out, type=_Answer)
        except msgspec.MsgspecError:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            return _Answer(error=f"its unpacking ended early: {last[0]}", store=True)

    def _keep(self, record: Record) -> None:
        """Write the record; a name is taken from whoever had it."""
        for other in list(self.records()):
            if other.id == record.id:
                record.tags = list(dict.fromkeys([*record.tags, *other.tags]))
                record.digests = list(dict.fromkeys([*record.digests, *other.digests]))
            elif taken := set(other.tags) & set(record.tags):
                other.tags = [tag for tag in other.tags if tag not in taken]
                save(self._path(other.id), msgspec.json.encode(other))
        save(self._path(record.id), msgspec.json.encode(record))

    def _path(self, image_id: str) -> Path:
        return self.folder / "records" / f"{image_id.removeprefix('sha256:')}.json"

    def _sweep(self) -> None:
        """Delete what a killed import left, and roots that no image and no container needs."""
        needed = {record.chain for record in self.records()} | self._in_use()
        for name in ("partial", "roots"):
            with contextlib.suppress(FileNotFoundError):
                for path in (self.folder / name).iterdir():
                    if name == "partial" or path.name not in needed:
                        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            for path in (self.folder / "pulls").iterdir():
                if not wire.lives(path):
                    shutil.rmtree(path, ignore_errors=True)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """One at a time, across processes."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            async with asyncio.timeout(IMPORT_S):
                while True:
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        await self._clock.sleep(LOCK_PAUSE_S)
            yield
        finally:
            os.close(fd)


def _chain(config: dict[str, Any]) -> str:
    """Return the name of the root that an image's layers make."""
    return hashlib.sha256("\n".join(config["rootfs"]["diff_ids"]).encode()).hexdigest()


def of(store: ImageStore, reference: str) -> Record:
    """Return the image, raises NoSuch."""
    found = store.find(reference)
    if found is None:
        raise NoSuch(f"image {reference} is not on this node: bring it with `edgecore images import FILE`")
    return found


def _image(record: Record) -> Image:
    user = record.config.User.partition(":")[0]
    number = int(user) if user.isdecimal() else None
    return Image(
        id=record.id,
        tags=tuple(record.tags),
        digests=tuple(record.digests),
        size_bytes=record.size_bytes,
        uid=number,
        user_name="" if number is not None else user,
        pinned=record.id == HOST,
    )

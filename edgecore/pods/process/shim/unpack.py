"""A child that brings images into the store: from an OCI layout or docker-save archive, or a folder with an OCI layout (PROC-7).

Every digest is checked. A root file system is unpacked below ``chroot``, so that no name and no link leads out of it. The last
line of output is JSON: {"images": [...]} or {"error": "..."}.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from edgecore.pods.references import parse

Json = dict[str, Any]
MAX_JSON_BYTES, MAX_MEMBERS, MAX_LAYERS = 4 << 20, 100_000, 128
MAX_FILES, MAX_BYTES = 2_000_000, 64 << 30
RESERVE_BYTES = 64 << 20  # of the disk are never filled by an image
CHUNK_BYTES = 1 << 20
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


class Bad(Exception):
    """Why the archive is refused."""


class Archive:
    """Files of a tar by name, or of a folder. Raises Bad."""

    def __init__(self, source: str) -> None:
        self._folder = source if os.path.isdir(source) else ""
        self._members: dict[str, tarfile.TarInfo] = {}
        if self._folder:
            return
        self._tar = tarfile.open(source, "r:*")
        for count, member in enumerate(self._tar):
            if count > MAX_MEMBERS:
                raise Bad(f"more than {MAX_MEMBERS} files in it")
            name = os.path.normpath(member.name)
            if member.isfile():
                self._members[name] = member
            elif member.islnk() or member.issym():  # docker save links layers that are the same
                other = os.path.normpath(os.path.join("" if member.islnk() else os.path.dirname(name), member.linkname))
                if other in self._members:
                    self._members[name] = self._members[other]

    def open(self, name: str) -> IO[bytes]:
        if self._folder:
            try:
                return open(f"{self._folder}/{name}", "rb")
            except OSError as error:
                raise Bad(f"{name} is missing") from error
        member = self._members.get(os.path.normpath(name))
        if member is None:
            raise Bad(f"{name} is missing: the archive is not whole")
        file = self._tar.extractfile(member)
        assert file is not None
        return file

    def json(self, name: str, digest: str = "") -> Any:
        with self.open(name) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise Bad(f"{name} is larger than {MAX_JSON_BYTES} bytes")
        if digest and _sha(data) != digest:
            raise Bad(f"{name} is damaged: its digest is another")
        return json.loads(data)

    def has(self, name: str) -> bool:
        return os.path.exists(f"{self._folder}/{name}") if self._folder else name in self._members


def main() -> None:
    source, store = sys.argv[1:3]
    os.umask(0o022)  # users of an image must see its root, whatever our unit says
    try:
        answer: Json = {"images": take(source, store, sys.argv[3:])}
    except Bad as error:
        answer = {"error": str(error)}
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        answer = {"error": f"it is no image archive, or damaged: {error}"}
    except OSError as error:
        answer = {"error": f"{error.filename or store}: {error.strerror or error}", "store": True}
    print(json.dumps(answer))


def take(source: str, store: str, names: list[str]) -> list[Json]:
    """Bring all images of ``source`` in; ``names`` replace those that it gives. Returns the records. Raises Bad, OSError."""
    archive = Archive(source)
    if archive.has("index.json"):
        found = list(_of_layout(archive))
    elif archive.has("manifest.json"):
        found = list(_of_docker(archive))
    else:
        raise Bad("no index.json or manifest.json in it: it is no image archive")
    records = []
    for known, digest, config_name, config_digest, layers in found:
        full = list(dict.fromkeys(names or [str(parse(name)) for name in known]))
        if not full:
            raise Bad("the archive names no image; save it with a name, as in: docker save -o FILE NAME:TAG")
        config = archive.json(config_name, config_digest)
        identity = config_digest or _digest_of(archive, config_name)
        records.append(_bring(archive, store, full, digest, identity, config, layers))
    if not records:
        raise Bad("the archive holds no image")
    return records


def _of_layout(archive: Archive) -> Iterator[tuple[list[str], str, str, str, list[tuple[str, str]]]]:
    for entry in archive.json("index.json")["manifests"]:
        annotations = entry.get("annotations") or {}
        name = next((annotations[key] for key in NAMES if ":" in str(annotations.get(key, ""))), "")
        digest = str(entry["digest"])
        manifest = archive.json(_blob(digest), digest)
        if "manifests" in manifest:
            mine = MACHINES.get(os.uname().machine, os.uname().machine)
            fits = [m for m in manifest["manifests"] if (m.get("platform") or {}).get("architecture", mine) == mine]
            fits = [m for m in fits if (m.get("platform") or {}).get("os", "linux") == "linux"]
            if not fits:
                raise Bad(f"no image for this machine ({mine}) in it")
            inner = str(fits[0]["digest"])
            manifest = archive.json(_blob(inner), inner)
        config = str(manifest["config"]["digest"])
        layers = [(_blob(str(layer["digest"])), str(layer["digest"])) for layer in manifest["layers"]]
        yield [name] if name else [], digest, _blob(config), config, layers


def _of_docker(archive: Archive) -> Iterator[tuple[list[str], str, str, str, list[tuple[str, str]]]]:
    for entry in archive.json("manifest.json"):
        tags = [str(tag) for tag in entry.get("RepoTags") or []]
        yield tags, "", str(entry["Config"]), "", [(str(layer), "") for layer in entry["Layers"]]


def _bring(
    archive: Archive,
    store: str,
    names: list[str],
    digest: str,
    identity: str,
    config: Json,
    layers: list[tuple[str, str]],
) -> Json:
    diffs = [str(word) for word in config["rootfs"]["diff_ids"]]
    if len(diffs) != len(layers) or len(layers) > MAX_LAYERS:
        raise Bad(f"{len(layers)} layers, but its configuration speaks of {len(diffs)}")
    machine = MACHINES.get(os.uname().machine, os.uname().machine)
    if config.get("architecture", machine) != machine:
        raise Bad(f"the image is for {config['architecture']}, this machine is {machine}")
    chain = _sha("\n".join(diffs).encode()).removeprefix("sha256:")
    root = f"{store}/roots/{chain}"
    if not os.path.exists(root):
        partial = f"{store}/partial/{chain}"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(f"{partial}/root", mode=0o755)
        try:
            size = _in_child(archive, f"{partial}/root", layers, diffs)
            with open(f"{partial}/size", "w", encoding="utf-8") as file:
                file.write(str(size))
            os.sync()
            os.rename(partial, root)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    with open(f"{root}/size", encoding="utf-8") as file:
        size = int(file.read())
    digests = [f"{parse(name).name}@{digest}" for name in names if digest]
    return {
        "id": identity,
        "tags": [name for name in names if "@" not in name],
        "digests": list(dict.fromkeys(digests)),
        "size_bytes": size,
        "chain": chain,
        "config": config.get("config") or {},
    }


def _in_child(archive: Archive, root: str, layers: list[tuple[str, str]], diffs: list[str]) -> int:
    """Unpack below ``chroot``; return the bytes unpacked. Raises Bad."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b""
        try:
            os.chroot(root)
            os.chdir("/")
            os.umask(0)
            size = Unpacking().run(archive, layers, diffs)
            said = b"=%d" % size
        except Bad as error:
            said = str(error).encode()
        except OSError as error:
            said = f"{error.filename or 'unpacking'}: {error.strerror or error}".encode()
        except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
            said = f"a layer is damaged: {error}".encode()
        finally:
            os.write(sink, said[:4000] or b"unpacking failed")
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if not said.startswith(b"="):
        raise Bad(said.decode(errors="replace") or "unpacking was ended")
    return int(said[1:])


class Unpacking:
    """Lays layers over each other in ``/``."""

    def __init__(self) -> None:
        self.files = self.size = 0

    def run(self, archive: Archive, layers: list[tuple[str, str]], diffs: list[str]) -> int:
        for (name, digest), diff in zip(layers, diffs, strict=True):
            with archive.open(name) as file:
                stream = Checked(file)
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    self.layer(tar)
                stream.drain()
            if stream.diff != diff or (digest and stream.digest != digest):
                raise Bad(f"layer {name} is damaged: its digest is another")
        return self.size

    def layer(self, tar: tarfile.TarFile) -> None:
        fresh: set[str] = set()
        folders: list[tuple[str, tarfile.TarInfo]] = []
        for member in tar:
            self._count(member)
            path = os.path.normpath("/" + member.name)
            folder, name = os.path.split(path)
            if name.startswith(WHITEOUT):
                self._white_out(folder, name, fresh)
                continue
            os.makedirs(os.path.realpath(folder), mode=0o755, exist_ok=True)  # through links that lead nowhere yet
            self._put(tar, member, path, folders)
            fresh.add(path)
        for path, member in reversed(folders):
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)

    def _count(self, member: tarfile.TarInfo) -> None:
        self.files += 1
        self.size += max(member.size, 0) if member.isreg() else 0
        if self.files > MAX_FILES or self.size > MAX_BYTES:
            raise Bad("the image is larger than anything that is taken")
        if self.files % 256 == 1 or member.size > CHUNK_BYTES:
            disk = os.statvfs("/")
            if disk.f_bavail * disk.f_frsize < member.size + RESERVE_BYTES:
                raise Bad("no space left on the disk for the image")

    @staticmethod
    def _white_out(folder: str, name: str, fresh: set[str]) -> None:
        """Hide what lower layers have; what this very layer brought stays, whatever the order."""
        if name == OPAQUE:
            names = os.listdir(folder) if os.path.isdir(folder) else []
        else:
            names = [name.removeprefix(WHITEOUT)]
        for one in names:
            path = os.path.join(folder, one)
            if one not in {"", ".", ".."} and not any(f == path or f.startswith(path + "/") for f in fresh):
                _delete(path)

    @staticmethod
    def _put(
        tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, folders: list[tuple[str, tarfile.TarInfo]]
    ) -> None:
        if member.isdir():
            if not (os.path.isdir(path) and not os.path.islink(path)):
                _delete(path)
                os.mkdir(path)
            folders.append((path, member))
        elif path == "/":
            raise Bad("its root is no folder")
        elif member.isreg():
            _delete(path)
            source = tar.extractfile(member)
            assert source is not None
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        elif member.issym():
            _delete(path)
            os.symlink(member.linkname, path)
        elif member.islnk():
            _delete(path)
            os.link(os.path.normpath("/" + member.linkname), path, follow_symlinks=False)
            return
        elif member.isfifo():
            _delete(path)
            os.mkfifo(path)
        else:
            return  # devices: bubblewrap gives those that a container may have
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, stat.S_IMODE(member.mode))
            capability = member.pax_headers.get("SCHILY.xattr.security.capability")
            if capability is not None:
                with contextlib.suppress(OSError):
                    os.setxattr(path, "security.capability", capability.encode("utf-8", "surrogateescape"))
        if not member.isdir():
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


class Checked(io.RawIOBase):
    """A layer as a plain tar; both digests are known at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._packed, self._plain = file, hashlib.sha256(), hashlib.sha256()
        head = self._take(4)
        if head == b"\x28\xb5\x2f\xfd":
            raise Bad("a layer is compressed with zstd, which this runtime does not read; export it with gzip")
        self._unzip = zlib.decompressobj(31) if head[:2] == b"\x1f\x8b" else None
        self._rest = self._decoded(head)

    @property
    def digest(self) -> str:
        return "sha256:" + self._packed.hexdigest()

    @property
    def diff(self) -> str:
        return "sha256:" + self._plain.hexdigest()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        wanted = size if size >= 0 else MAX_BYTES
        while wanted > 0:
            if not self._rest:
                data = self._take(64 << 10)
                if not data:
                    break
                self._rest = self._decoded(data)
                continue
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        out = b"".join(parts)
        self._plain.update(out)
        return out

    def drain(self) -> None:
        """Read what comes after the tar's own end."""
        while self.read(CHUNK_BYTES):
            pass

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._packed.update(data)
        return data

    def _decoded(self, data: bytes) -> bytes:
        if self._unzip is None:
            return data
        out = self._unzip.decompress(data)
        while self._unzip.eof and self._unzip.unused_data:  # gzip files one after another
            left = self._unzip.unused_data
            self._unzip = zlib.decompressobj(31)
            out += self._unzip.decompress(left)
        return out


def _delete(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _blob(digest: str) -> str:
    kind, _, word = digest.partition(":")
    if kind != "sha256" or len(word) != 64 or not all(c in "0123456789abcdef" for c in word):
        raise Bad(f"{digest!r} is no digest")
    return f"blobs/sha256/{word}"


def _sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _digest_of(archive: Archive, name: str) -> str:
    with archive.open(name) as file:
        return _sha(file.read(MAX_JSON_BYTES))

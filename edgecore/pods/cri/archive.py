"""Images without a registry: an OCI layout or docker-save archive into the runtime's store.

CRI has no call for it. containerd has one that its own client ``ctr`` speaks; CRI-O has none at all. What is damaged leaves no
image behind: contents are compared with their names first, since ``ctr`` names an image before it unpacks it.
"""

import asyncio
import gzip
import hashlib
import re
import shutil
import tarfile
import zlib
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgecore.pods.runtime import Image, RuntimeAway, RuntimeRefused, Version

NAMESPACE = "k8s.io"  # where the CRI plugin looks
IMPORT_S = 1800.0
MAX_INDEX_BYTES = 4 << 20
MAX_MEMBERS = 100_000
MAX_OUTPUT_BYTES = 500
PIECE_BYTES = 1 << 20
NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
BAD_ARCHIVE = "InvalidArchive"
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")


class Runtime(Protocol):
    """What of the runtime an import needs."""

    async def version(self) -> Version: ...
    async def image(self, reference: str) -> Image | None: ...
    async def remove_image(self, image_id: str) -> None: ...


async def import_archive(runtime: Runtime, socket: Path, archive: Path) -> list[str]:
    """Return the references that are present afterwards. Raises RuntimeRefused with what to do instead."""
    references = await asyncio.to_thread(references_in, archive)
    name = (await runtime.version()).name
    if name != "containerd":
        raise RuntimeRefused(
            f"{name} takes no archives over its socket; run: skopeo copy docker-archive:{archive} "
            f"containers-storage:{references[0]} (or oci-archive:{archive})",
            "NotSupported",
        )
    program = _client()
    if not program:
        raise RuntimeRefused(
            f"importing needs containerd's client 'ctr' on this machine; with it: "
            f"ctr -a {socket} -n {NAMESPACE} images import {archive}",
            "NotSupported",
        )
    new = [reference for reference in references if await runtime.image(reference) is None]
    try:
        await _run([*program, "-a", str(socket), "-n", NAMESPACE, "images", "import", "-"], archive)
    except RuntimeRefused:
        await _take_back(runtime, new)
        raise
    missing = [reference for reference in references if await runtime.image(reference) is None]
    if missing:
        raise RuntimeRefused(f"after the import the runtime still does not have {', '.join(missing)}", BAD_ARCHIVE)
    return references


async def _take_back(runtime: Runtime, references: list[str]) -> None:
    """Remove the images that an import has named and not unpacked, unless one of them goes by an older name, too."""
    for reference in references:
        found = await runtime.image(reference)
        if found is not None and set(found.tags) <= set(references):
            await runtime.remove_image(found.id)


def references_in(archive: Path) -> list[str]:
    """Return the image references that ``archive`` names. Raises RuntimeRefused."""
    try:
        indexes = _read_indexes(archive)
    except OSError as error:
        raise RuntimeRefused(f"cannot read {archive}: {error.strerror or error}", BAD_ARCHIVE) from error
    except (tarfile.TarError, zlib.error, EOFError, ValueError, msgspec.MsgspecError) as error:
        raise RuntimeRefused(f"{archive} is no image archive: {error}", BAD_ARCHIVE) from error
    found = _oci_names(indexes.get("index.json")) or _docker_names(indexes.get("manifest.json"))
    if not indexes:
        raise RuntimeRefused(f"{archive} is no image archive: no index.json or manifest.json in it", BAD_ARCHIVE)
    if not found:
        raise RuntimeRefused(
            f"{archive} names no image; save it with a name, as in: docker save -o {archive.name} NAME:TAG", BAD_ARCHIVE
        )
    return found


def _read_indexes(archive: Path) -> dict[str, Any]:
    indexes: dict[str, Any] = {}
    with tarfile.open(archive, "r:gz" if _is_gzip(archive) else "r:") as tar:
        for count, member in enumerate(tar):
            if count > MAX_MEMBERS:
                raise ValueError(f"more than {MAX_MEMBERS} files")
            name = member.name.removeprefix("./")
            if (blob := BLOB.fullmatch(name)) is not None and member.isfile():
                _check(tar, member, blob[1], archive)
            if name not in {"index.json", "manifest.json"} or not member.isfile():
                continue
            if member.size > MAX_INDEX_BYTES:
                raise ValueError(f"{name} is larger than {MAX_INDEX_BYTES} bytes")
            source = tar.extractfile(member)
            assert source is not None
            indexes[name] = msgspec.json.decode(source.read(MAX_INDEX_BYTES))
    return indexes


def _check(tar: tarfile.TarFile, member: tarfile.TarInfo, digest: str, archive: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None
    if hashlib.file_digest(source, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
        raise RuntimeRefused(
            f"{archive} is damaged: {member.name} is not what its name says; copy it again", BAD_ARCHIVE
        )


def _oci_names(index: Any) -> list[str]:
    manifests = index.get("manifests") if isinstance(index, dict) else None
    names: list[str] = []
    for manifest in manifests if isinstance(manifests, list) else []:
        annotations = manifest.get("annotations") if isinstance(manifest, dict) else None
        if isinstance(annotations, dict):
            full = (annotations.get(key) for key in NAME_ANNOTATIONS)
            names += [next((name for name in full if isinstance(name, str) and ":" in name), "")]
    return list(dict.fromkeys(name for name in names if name))


def _docker_names(manifest: Any) -> list[str]:
    tags: list[str] = []
    for image in manifest if isinstance(manifest, list) else []:
        listed = image.get("RepoTags") if isinstance(image, dict) else None
        tags += [tag for tag in listed or [] if isinstance(tag, str)] if isinstance(listed, list) else []
    return list(dict.fromkeys(tags))


def _client() -> list[str]:
    if found := shutil.which("ctr"):
        return [found]
    return [found, "ctr"] if (found := shutil.which("k3s")) else []


async def _run(argv: list[str], archive: Path) -> None:
    """Feed the archive to ``argv``, unpacked: containerd 1.6 takes no compressed one."""
    source = await asyncio.to_thread(gzip.open if _is_gzip(archive) else open, archive, "rb")
    process = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(IMPORT_S), asyncio.TaskGroup() as group:
            said = group.create_task(_said(process))
            await _feed(process, source)
    except TimeoutError as error:
        raise RuntimeAway(f"the import did not end within {IMPORT_S:.0f} s") from error
    finally:
        source.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = said.result().splitlines()[-1:] or [f"ctr ended with {process.returncode}"]
        raise RuntimeRefused(f"containerd refuses {archive}: {last[0].removeprefix('ctr: ')}", BAD_ARCHIVE)


async def _feed(process: asyncio.subprocess.Process, source: Any) -> None:
    assert process.stdin is not None
    try:
        while piece := await asyncio.to_thread(source.read, PIECE_BYTES):
            process.stdin.write(piece)
            await process.stdin.drain()
    except (ConnectionError, zlib.error, EOFError, OSError):
        pass  # it gave up, or the archive is cut short: its own words say which
    process.stdin.close()


async def _said(process: asyncio.subprocess.Process) -> str:
    """Return the end of the output, once the process has ended."""
    assert process.stdout is not None
    output = b""
    while piece := await process.stdout.read(PIECE_BYTES):
        output = (output + piece)[-MAX_OUTPUT_BYTES:]
    await process.wait()
    return output.decode(errors="replace").strip()


def _is_gzip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"

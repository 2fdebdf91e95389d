"""OCI image archives made from this machine's own files, without a registry: pause, busybox and a small Python.

Made once and kept under build/images; the name of each holds what it was made from.
"""

import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecore.pods.cri import pause

CACHE = Path(__file__).parents[2] / "build" / "images"
BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static
PAUSE_REF = "localhost/skerry/pause:1"
BUSYBOX_REF = "localhost/skerry/busybox:1"
PYTHON_REF = "localhost/skerry/python:1"
# What deploy/examples name, so that the same files work with a registry and without one.
EXAMPLE_BUSYBOX_REF = "docker.io/library/busybox:1.36"
EXAMPLE_PYTHON_REF = "docker.io/library/python:3.11-slim"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
GROUP = b"root:x:0:\ndaemon:x:1:\nnobody:x:65534:\n"
VERSION = "1"  # of what this file makes


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a layer: bytes, a copy of a host's file, a link, or (all None) a directory. A copy keeps its mtime: Python needs it."""

    name: str
    mode: int = 0o755
    content: bytes | None = None
    source: Path | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Oci:
    """An image: its blobs by digest, and the descriptor of its manifest."""

    reference: str
    manifest: dict[str, Any]
    blobs: dict[str, bytes] = field(repr=False)


def layer(entries: Iterable[Entry]) -> bytes:
    """Return a layer as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            item = tarfile.TarInfo(entry.name)
            item.mode = entry.mode
            if entry.link is not None:
                item.type, item.linkname = tarfile.SYMTYPE, entry.link
                tar.addfile(item)
            elif entry.source is not None:
                item.size, item.mtime = entry.source.stat().st_size, int(entry.source.stat().st_mtime)
                with entry.source.open("rb") as source:
                    tar.addfile(item, source)
            elif entry.content is not None:
                item.size = len(entry.content)
                tar.addfile(item, io.BytesIO(entry.content))
            else:
                item.type = tarfile.DIRTYPE
                tar.addfile(item)
    return buffer.getvalue()


def image(reference: str, layers: Iterable[bytes], config: dict[str, Any]) -> Oci:
    """Assemble an image of uncompressed layers; ``config`` as in an OCI image configuration (Entrypoint, Cmd, Env, User)."""
    blobs: dict[str, bytes] = {}

    def put(blob: bytes, kind: str) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        blobs[digest] = blob
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(blob)}

    stack = [put(blob, "layer.v1.tar") for blob in layers]
    about = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [part["digest"] for part in stack]},
    }
    described = put(json.dumps(about, sort_keys=True).encode(), "config.v1+json")
    kind = "application/vnd.oci.image.manifest.v1+json"
    body = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": stack}
    return Oci(reference, put(json.dumps(body, sort_keys=True).encode(), "manifest.v1+json"), blobs)


def write_archive(path: Path, *images: Oci) -> Path:
    """Write an OCI layout as a tar."""
    manifests = [
        {
            **one.manifest,
            "annotations": {
                "io.containerd.image.name": one.reference,
                "org.opencontainers.image.ref.name": one.reference,
            },
            "platform": {"architecture": ARCHITECTURE, "os": "linux"},
        }
        for one in images
    ]
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(),
    }
    for one in images:
        files |= {f"blobs/sha256/{digest.removeprefix('sha256:')}": blob for digest, blob in one.blobs.items()}
    return _write_tar(path, files, "w")


def write_docker_archive(path: Path, one: Oci, *, mode: str = "w") -> Path:
    """Write an image as ``docker save`` did for years; ``mode`` is a tar's, such as ``w:gz``."""
    manifest = json.loads(one.blobs[one.manifest["digest"]])
    config, *layers = (part["digest"].removeprefix("sha256:") for part in (manifest["config"], *manifest["layers"]))
    names = {f"{config}.json": config, **{f"{name}/layer.tar": name for name in layers}}
    listed = [
        {"Config": f"{config}.json", "RepoTags": [one.reference], "Layers": [f"{name}/layer.tar" for name in layers]}
    ]
    files = {name: one.blobs[f"sha256:{digest}"] for name, digest in names.items()}
    return _write_tar(path, {**files, "manifest.json": json.dumps(listed).encode()}, mode)


def _write_tar(path: Path, files: dict[str, bytes], mode: str) -> Path:
    partial = path.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(partial, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    partial.rename(path)
    return path


def pause_image() -> Oci:
    """A process that waits, reaps what is left to it, and ends at SIGTERM: the first one of each pod."""
    machine = pause.of_this_machine()
    assert machine is not None, f"no pause program for {platform.machine()}"
    return image(PAUSE_REF, [layer([Entry("pause", content=pause.program(machine))])], {"Entrypoint": ["/pause"]})


def busybox_image(reference: str = BUSYBOX_REF, **config: Any) -> Oci:
    """Busybox with all its applets; ``config`` adds to or replaces the image's configuration."""
    return image(reference, [_busybox_layer()], {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **config})


def python_image(reference: str = PYTHON_REF, **config: Any) -> Oci:
    """This machine's Python, its standard library and the shared libraries they need; ``config`` as of ``busybox_image``."""
    files = dict(_python_files(_interpreter()))
    folders = {str(parent) for name in files for parent in Path(name).parents}
    folders = (folders | {"tmp", "proc", "dev", "sys", "etc", "bin", "usr/bin"}) - {"."}
    entries = [Entry(name, 0o1777 if name == "tmp" else 0o755) for name in sorted(folders)]
    entries += [Entry("etc/passwd", 0o644, PASSWD), Entry("etc/group", 0o644, GROUP)]
    entries += [Entry("bin/busybox", source=BUSYBOX), Entry("bin/sh", 0o777, link="busybox")]
    entries += [Entry(n, 0o755 if os.access(p, os.X_OK) else 0o644, source=p) for n, p in sorted(files.items())]
    if "usr/bin/python3" not in files:
        entries.append(Entry("usr/bin/python3", 0o777, link=f"/{_inside(_interpreter())}"))
    settings = {"Entrypoint": ["/usr/bin/python3"], "Env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"]}
    return image(reference, [layer(entries)], {**settings, **config})


def archive(name: str) -> Path:
    """Return the archive of ``pause``, ``busybox`` or ``python``, or of one of the latter ``-example``; made where it is missing."""
    makers: dict[str, Callable[[], Oci]] = {
        "pause": pause_image,
        "busybox": busybox_image,
        "python": python_image,
        "busybox-example": lambda: busybox_image(EXAMPLE_BUSYBOX_REF),
        "python-example": lambda: python_image(EXAMPLE_PYTHON_REF, Entrypoint=[], Cmd=["python3"]),
    }
    origin = (_interpreter() if name.startswith("python") else BUSYBOX).stat()
    made_from = hashlib.sha256(f"{VERSION} {origin.st_size} {origin.st_mtime_ns}".encode()).hexdigest()[:12]
    path = CACHE / f"{name}-{made_from}.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        write_archive(path, makers[name]())
    return path


def _busybox_layer() -> bytes:
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = [Entry(name) for name in ("bin", "etc", "proc", "dev", "sys", "root")] + [Entry("tmp", 0o1777)]
    entries += [Entry("etc/passwd", 0o644, PASSWD), Entry("etc/group", 0o644, GROUP)]
    entries += [Entry("bin/busybox", source=BUSYBOX)]
    entries += [Entry(f"bin/{applet}", 0o777, link="busybox") for applet in sorted(applets) if applet != "busybox"]
    return layer(entries)


def _interpreter() -> Path:
    own = Path("/usr/bin/python3")
    return (
        own.resolve() if own.exists() else Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    )


def _python_files(interpreter: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the image, host's file)."""
    skipped = {
        "test",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "dist-packages",
    }
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = Path(
        subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    native = [interpreter]
    yield _inside(interpreter), interpreter
    for folder, below, names in os.walk(library):
        below[:] = [name for name in below if name not in skipped and not name.startswith("config-")]
        for name in names:
            path = Path(folder, name)
            if path.suffix in {".a", ".o"} or ".opt-" in name or not path.exists():
                continue
            if path.suffix == ".so":
                native.append(path)
            yield _inside(path), path
    for name in sorted({found for path in native for found in _shared_libraries(path)}):
        yield _inside(Path(name)), Path(name).resolve()


def _shared_libraries(path: Path) -> list[str]:
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", said)


def _inside(path: Path) -> str:
    return str(path).lstrip("/")

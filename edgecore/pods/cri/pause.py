"""The first process of each pod, for gateways that reach no registry: a static program of some hundred bytes, as an image.

containerd makes every pod around a "sandbox image" that it would fetch by name. Where that image is missing ours takes the
name: it waits, reaps what is left to it, and ends at SIGTERM or SIGINT, which is all that a pause image does.
"""

import hashlib
import io
import json
import platform
import tarfile
from typing import Any, NamedTuple

import msgspec

BASE = 0x400000
HEADERS = 64 + 56


class Machine(NamedTuple):
    """One architecture: Go's name for it, ELF's number, and the program's code."""

    name: str
    number: int
    code: str


X86_64 = Machine(
    "amd64",
    62,
    "6800400100"  # push 0x14000         the signals CHLD (bit 16) and TERM (bit 14) ...
    "48830c2402"  # or qword [rsp], 2    ... and INT (bit 1)
    "b80e000000"  # mov eax, 14          rt_sigprocmask
    "31ff"  # xor edi, edi               SIG_BLOCK
    "4889e6"  # mov rsi, rsp
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "b880000000"  # wait: mov eax, 128   rt_sigtimedwait
    "4889e7"  # mov rdi, rsp
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "83f802"  # cmp eax, 2               SIGINT
    "7420"  # je end
    "83f80f"  # cmp eax, 15              SIGTERM
    "741b"  # je end
    "b83d000000"  # reap: mov eax, 61    wait4
    "4883cfff"  # or rdi, -1
    "31f6"  # xor esi, esi
    "ba01000000"  # mov edx, 1           WNOHANG
    "4531d2"  # xor r10d, r10d
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7fe7"  # jg reap
    "ebc7"  # jmp wait
    "b8e7000000"  # end: mov eax, 231    exit_group
    "31ff"  # xor edi, edi
    "0f05",  # syscall
)
AARCH64 = Machine(
    "arm64",
    183,
    "490088d2"  # mov x9, #0x4002        TERM (bit 14), INT (bit 1) ...
    "2900a0f2"  # movk x9, #1, lsl #16   ... and CHLD (bit 16)
    "e90f1ff8"  # str x9, [sp, #-16]!
    "000080d2"  # mov x0, #0             SIG_BLOCK
    "e1030091"  # mov x1, sp
    "020080d2"  # mov x2, #0
    "030180d2"  # mov x3, #8
    "e81080d2"  # mov x8, #135           rt_sigprocmask
    "010000d4"  # svc #0
    "e0030091"  # wait: mov x0, sp
    "010080d2"  # mov x1, #0
    "020080d2"  # mov x2, #0
    "030180d2"  # mov x3, #8
    "281180d2"  # mov x8, #137           rt_sigtimedwait
    "010000d4"  # svc #0
    "1f080071"  # cmp w0, #2             SIGINT
    "80010054"  # b.eq end
    "1f3c0071"  # cmp w0, #15            SIGTERM
    "40010054"  # b.eq end
    "00008092"  # reap: mov x0, #-1
    "010080d2"  # mov x1, #0
    "220080d2"  # mov x2, #1             WNOHANG
    "030080d2"  # mov x3, #0
    "882080d2"  # mov x8, #260           wait4
    "010000d4"  # svc #0
    "1f000071"  # cmp w0, #0
    "2cffff54"  # b.gt reap
    "eeffff17"  # b wait
    "000080d2"  # end: mov x0, #0
    "c80b80d2"  # mov x8, #94            exit_group
    "010000d4",  # svc #0
)
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}


def program(machine: Machine) -> bytes:
    """Return the program as a static ELF of one segment."""
    code = bytes.fromhex(machine.code)
    size = HEADERS + len(code)
    head = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9) + _words(2, 2, machine.number) + _words(4, 1)
    head += _words(8, BASE + HEADERS, 64, 0) + _words(4, 0) + _words(2, 64, 56, 1, 0, 0, 0)
    segment = _words(4, 1, 5) + _words(8, 0, BASE, BASE, size, size, 0x10000)
    return head + segment + code


def archive(reference: str, machine: Machine) -> bytes:
    """Return an OCI layout as a tar, holding the image under ``reference``."""
    layer = _tar({"pause": program(machine)}, mode=0o755)
    config = {
        "architecture": machine.name,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = {_digest(blob): blob for blob in (layer, _json(config))}
    kind = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}manifest.v1+json",
        "config": _descriptor(_json(config), f"{kind}config.v1+json"),
        "layers": [_descriptor(layer, f"{kind}layer.v1.tar")],
    }
    blobs[_digest(_json(manifest))] = _json(manifest)
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                **_descriptor(_json(manifest), f"{kind}manifest.v1+json"),
                "platform": {"architecture": machine.name, "os": "linux"},
                "annotations": {"io.containerd.image.name": reference},
            }
        ],
    }
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index)}
    return _tar(
        files | {f"blobs/sha256/{digest.removeprefix('sha256:')}": b for digest, b in blobs.items()}, mode=0o644
    )


def wanted(config: str) -> str:
    """Return the sandbox image in containerd's configuration as its status shows it (JSON), "" when it is not said."""
    try:
        said = msgspec.json.decode(config.encode())
    except msgspec.DecodeError:
        return ""
    if not isinstance(said, dict):
        return ""
    pinned = said.get("pinnedImages") or (said.get("images") or {}).get("pinnedImages") or {}  # since 2.0
    return str(said.get("sandboxImage") or (pinned.get("sandbox") if isinstance(pinned, dict) else "") or "")


def of_this_machine() -> Machine | None:
    return MACHINES.get(platform.machine())


def _words(width: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(width, "little") for value in values)


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), mode
            tar.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _descriptor(blob: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}

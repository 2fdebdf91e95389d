"""Calls of the kernel that Python 3.11 does not have, and the words for what they take."""

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 24, 22, 38
PR_SET_CHILD_SUBREAPER = 36
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]  # in the order of their bits, capabilities(7)
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    _checked(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    _checked(_libc.mount(*words), target)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    _checked(_libc.umount2(target.encode(), flags), target)


def pivot_root(new: str, old: str) -> None:
    _checked(_libc.pivot_root(new.encode(), old.encode()), new)


def prctl(option: int, value: int = 0) -> None:
    _checked(
        _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl"
    )


def keep_capabilities(kept: int) -> None:
    """Make ``kept`` (bits) the permitted and effective set, and none inheritable."""
    head = struct.pack("Ii", 0x20080522, 0)  # version 3, this thread
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _checked(_libc.capset(head, struct.pack("6I", low, low, 0, high, high, 0)), "capset")


def bound_capabilities(kept: int) -> None:
    """Take everything but ``kept`` from the bounding set: no program can bring it back."""
    for bit in range(len(CAPABILITIES)):
        if not kept >> bit & 1:
            try:
                prctl(PR_CAPBSET_DROP, bit)
            except OSError:  # a kernel that does not know it yet
                continue


def effective_capabilities() -> int:
    """Return the bits that this process has now."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def install_seccomp(program: bytes) -> None:
    """Filter calls from now on; ``program`` is classic BPF."""
    held = ctypes.create_string_buffer(program, len(program))
    filled = struct.pack("HxxxxxxP" if struct.calcsize("P") == 8 else "HxxP", len(program) // 8, ctypes.addressof(held))
    address = ctypes.create_string_buffer(filled, len(filled))
    words = (ctypes.c_ulong(2), ctypes.c_ulong(ctypes.addressof(address)), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _checked(_libc.prctl(PR_SET_SECCOMP, *words), "seccomp")


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)

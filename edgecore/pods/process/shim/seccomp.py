"""The RuntimeDefault profile: calls that no container has a use for are refused with EPERM (PROC-9).

A list of what is refused, not of what is allowed: a program of tomorrow still runs. Classic BPF, bpf(2) is not needed.
"""

import os
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
EPERM, ALLOW, ERRNO = 1, 0x7FFF0000, 0x00050000
LOAD, EQUAL, GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
# number of each call on x86_64 and on aarch64 (-1: it has none)
REFUSED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, -1),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}


def program() -> bytes:
    """Return the filter for this machine. Raises KeyError on another architecture."""
    machine = os.uname().machine
    column = list(ARCHITECTURES).index(machine) if machine in ARCHITECTURES else -1
    if column < 0:
        raise KeyError(machine)
    numbers = sorted(pair[column] for pair in REFUSED.values() if pair[column] >= 0)
    refuse = len(numbers)  # comparisons before the two returns
    lines = [
        _line(LOAD, ARCHITECTURE_AT),
        _line(EQUAL, ARCHITECTURES[machine], 0, refuse + 3),  # other calling conventions have other numbers
        _line(LOAD, NUMBER_AT),
        _line(GREATER_EQUAL, X32_BIT, refuse + 1, 0),
    ]
    lines += [_line(EQUAL, number, refuse - at, 0) for at, number in enumerate(numbers)]
    lines += [_line(RETURN, ALLOW), _line(RETURN, ERRNO | EPERM)]
    return b"".join(lines)


def _line(code: int, value: int, when: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, when, otherwise, value)

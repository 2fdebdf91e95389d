"""Ports for servers that tests start, stop and start again on the same port.

Not from the range that the kernel gives to outgoing connections: while a killed daemon is down, one of those could take
its port. Two checkouts choose at random, so they rarely meet; a port in use is passed over.
"""

import random
import socket
from pathlib import Path

LOWEST = 10_240
_range = Path("/proc/sys/net/ipv4/ip_local_port_range")
HIGHEST = int(_range.read_text().split()[0]) - 1 if _range.exists() else 32_767
_random = random.Random()
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now, not given before in this process."""
    for _ in range(1_000):
        port = _random.randint(LOWEST, HIGHEST)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port between {LOWEST} and {HIGHEST}")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True

"""A pod's own network: a namespace with a cable (veth) to the bridge of all pods, made with ``ip``; gone with the pod (PROC-5)."""

import fcntl
import os
import signal
import socket
from typing import Any

from edgecore.pods.process.shim import linux

Json = dict[str, Any]
TABLE = "skerry"
MASQUERADE = """table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"""


class NoNetwork(Exception):
    """Why the pod gets no network of its own; the text is for people."""


def join(network: Json, lock: str) -> None:
    """Enter a new network namespace, joined to the bridge. Raises NoNetwork."""
    holder = _hold_namespace()
    try:
        with open(lock, "a", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # two pods at once would make the bridge twice
            _outside(network, holder)
        fd = os.open(f"/proc/{holder}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(fd, linux.CLONE_NEWNET)
        os.close(fd)
    except OSError as error:
        raise NoNetwork(f"no network namespace: {error.strerror}") from error
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    _inside(network)


def loopback() -> None:
    """Bring up the loopback of the namespace that this process is in."""
    _ip("link set lo up\n")


def leave() -> None:
    """Take the cable away at once; the kernel frees the rest with the last process."""
    try:
        _ip("link del eth0\n")
    except NoNetwork:
        return


def _hold_namespace() -> int:
    """Return a child in a namespace of its own."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWNET)
            os.write(told, b"y")
            signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    done = os.read(ready, 1)
    os.close(ready)
    if not done:
        os.waitpid(pid, 0)
        raise NoNetwork("this machine lets edgecore make no network namespace: run the pod with hostNetwork")
    return pid


def _outside(network: Json, holder: int) -> None:
    bridge, cable = network["bridge"], network["cable"]
    lines = []
    try:
        socket.if_nametoindex(bridge)
    except OSError:
        lines += [
            f"link add {bridge} type bridge",
            f"addr add {network['gateway']}/{network['prefix']} dev {bridge}",
            f"link set {bridge} up",
        ]
    made = bool(lines)
    lines += [
        f"link add {cable} type veth peer name eth0 netns {holder}",
        f"link set {cable} master {bridge}",
        f"link set {cable} type bridge_slave hairpin on",
        f"link set {cable} up",
    ]
    _ip("\n".join(lines) + "\n")
    if made:
        _forward()
        # Pods reach each other and the node without it.
        run(["nft", "-f", "-"], MASQUERADE.format(table=TABLE, **network))


def _inside(network: Json) -> None:
    address, prefix, gateway = network["address"], network["prefix"], network["gateway"]
    _ip(f"link set lo up\naddr add {address}/{prefix} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n")


def _forward() -> None:
    try:
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="utf-8") as file:
            file.write("1")
    except OSError:
        return  # a unit that may not: the machine's own setting counts


def _ip(lines: str) -> None:
    code, said = run(["ip", "-batch", "-"], lines)
    if code:
        raise NoNetwork(f"ip: {said.strip() or f'exit code {code}'}: run the pod with hostNetwork")


def run(argv: list[str], text: str) -> tuple[int, str]:
    """Run a program; return its exit code and what it wrote to standard error."""
    source, sink = os.pipe()
    errors, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(source, 0)
            os.dup2(said, 2)
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    os.close(source)
    os.close(said)
    try:
        os.write(sink, text.encode())
    except OSError:
        pass  # it ended early, and says why
    os.close(sink)
    heard = b""
    while more := os.read(errors, 4096):
        heard = (heard + more)[:4096]
    os.close(errors)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), heard.decode(errors="replace")

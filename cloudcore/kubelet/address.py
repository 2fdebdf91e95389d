"""Under which address and port an API server finds the kubelet API of an edge node: what the Node's status says."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

AddressType = Literal["Hostname", "InternalDNS", "InternalIP"]
NODE = "{node}"


@dataclass(frozen=True, slots=True)
class KubeletAddress:
    """``host`` may contain ``{node}``."""

    type: AddressType
    host: str
    port: int

    def patched(self, node: str, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``status`` with this address before the edge's own ones, which stay where they are of another type."""
        own = [a for a in status.get("addresses") or [] if isinstance(a, dict) and a.get("type") != self.type]
        address = {"type": self.type, "address": self.host.replace(NODE, node)}
        endpoints = {**(status.get("daemonEndpoints") or {}), "kubeletEndpoint": {"Port": self.port}}
        return {**status, "addresses": [*own, address], "daemonEndpoints": endpoints}


def address_of(kind: str, advertise: str, port: int, *, embedded: bool, server: str) -> KubeletAddress:
    """Return what nodes' statuses say. ``server``: the API server's URL, to which our own address is looked up."""
    host = advertise or (NODE if embedded else towards(server))
    return KubeletAddress(type_of(kind, embedded=embedded), host, port)


def type_of(kind: str, *, embedded: bool) -> AddressType:
    """Return the type that the setting ``kind`` stands for."""
    if kind == "auto":
        return "InternalDNS" if embedded else "Hostname"
    return "InternalIP" if kind == "InternalIP" else "InternalDNS" if kind == "InternalDNS" else "Hostname"


def towards(server: str) -> str:
    """Return this machine's address on the way to ``server``: where it can most likely call back."""
    host = urlsplit(server).hostname or "127.0.0.1"
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sock:
                sock.connect(address)  # sends nothing: the kernel only picks the source address
                return str(sock.getsockname()[0])
    return "127.0.0.1"

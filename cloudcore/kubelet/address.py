"""Under which address and port an API server finds the kubelet API of an edge node: what the Node's status says."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

AddressType = Literal["Hostname", "InternalDNS", "InternalIP"]
NODE = "{node}"
MAX_SHOWN = 64  # characters of an address that a node says


@dataclass(frozen=True, slots=True)
class KubeletAddress:
    """``host`` may contain ``{node}``. ``only``: no other address is shown, so that every API server picks this one."""

    type: AddressType
    host: str
    port: int
    only: bool = False

    def patched(self, node: str, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``status`` with this address after the edge's own ones of other types, or instead of them."""
        found = status.get("addresses") or [] if not self.only else []
        own = [a for a in found if isinstance(a, dict) and a.get("type") != self.type]
        address = {"type": self.type, "address": self.host.replace(NODE, node)}
        endpoints = {**(status.get("daemonEndpoints") or {}), "kubeletEndpoint": {"Port": self.port}}
        return {**status, "addresses": [*own, address], "daemonEndpoints": endpoints}

    def hidden(self, status: Mapping[str, Any]) -> str:
        """Return the edge's own IP address that ``patched`` leaves out of ``status``, "" when there is none."""
        for each in status.get("addresses") or [] if self.only else []:
            if isinstance(each, dict) and each.get("type") == "InternalIP" != self.type:
                return str(each.get("address") or "")[:MAX_SHOWN]
        return ""


def address_of(kind: str, advertise: str, port: int, *, embedded: bool, server: str) -> KubeletAddress:
    """Return what nodes' statuses say. ``server``: the API server's URL, to which our own address is looked up."""
    host = advertise or (NODE if embedded else towards(server))
    # In which order another API server tries the types is not ours to know: kubeadm's begins with InternalIP.
    return KubeletAddress(type_of(kind, embedded=embedded), host, port, only=kind == "auto" and not embedded)


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

"""Who a client is: decided from its certificate or password, before any session is looked at (MQTT-1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from proto.kit.errors import Terminal
from proto.mqtt import reasons
from proto.mqtt.packets import Connect


class Refusal(Terminal):
    """This CONNECT gets no session; ``reason`` is a reason code of MQTT 5."""

    code = "Refused"

    def __init__(self, message: str, reason: int = reasons.NOT_AUTHORIZED) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """A client that was let in. A session belongs to the identity that made it, for ever."""

    name: str
    client_id: str = ""  # the only client id that this identity may use; "" any
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The client certificate that TLS verified."""

    common_name: str
    organizations: tuple[str, ...]
    serial: str  # hexadecimal, as in the certificate
    dns_names: tuple[str, ...] = ()


Verb: TypeAlias = Literal["publish", "subscribe", "receive"]
Authenticate: TypeAlias = Callable[[Connect, PeerCertificate | None, str, bytes], Identity]
Acl: TypeAlias = Callable[[Identity, Verb, str], bool]

INSIDE = Identity("inside")  # in-process connections; no ACL is asked


def anonymous(connect: Connect, peer: PeerCertificate | None, username: str, password: bytes) -> Identity:  # noqa: ARG001
    """Let everybody in under one identity: for a broker on the loopback address only."""
    return Identity("anonymous")


def allow_all(identity: Identity, verb: Verb, topic: str) -> bool:  # noqa: ARG001
    """Refuse nothing."""
    return True


def peer_certificate(peercert: dict[str, Any] | None) -> PeerCertificate | None:
    """Read what ``ssl`` says about a verified peer; None without a certificate."""
    if not peercert:
        return None
    subject = [pair for rdn in peercert.get("subject", ()) for pair in rdn]
    names = [value for key, value in subject if key == "commonName"]
    return PeerCertificate(
        common_name=names[0] if len(names) == 1 else "",
        organizations=tuple(value for key, value in subject if key == "organizationName"),
        serial=str(peercert.get("serialNumber", "")),
        dns_names=tuple(value for key, value in peercert.get("subjectAltName", ()) if key == "DNS"),
    )

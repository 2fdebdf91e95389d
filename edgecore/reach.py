"""Can this gateway reach its cloud? DNS, TCP, TLS and MQTT, each with the sentence that a person needs."""

import socket
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from edgecore.data_dir import DataDir
from edgecore.settings import Settings
from proto.kit.errors import UsageError
from proto.kit.tls import client_context

TIMEOUT_S = 5.0
DEFAULT_PORTS = {"mqtts": 8883, "mqtt": 1883, "https": 443}
CONNACK_REASONS = {
    1: "the broker does not speak MQTT 3.1.1",
    2: "the client id is refused",
    3: "the broker is not available",
    4: "user name or password is wrong",
    5: "this identity is not authorised: revoked, or its certificate names another node",
}
X509_EXPIRED = 10
X509_NOT_YET_VALID = 9
X509_UNKNOWN_CA = (18, 19, 20, 21)
X509_WRONG_NAME = 62

Verdict = tuple[str, Any, str, str]


class Reach:
    """Walk from name to CONNACK and stop at the first thing that fails."""

    def __init__(self, directory: DataDir, settings: Settings, *, connected: bool) -> None:
        self._directory = directory
        self._settings = settings
        self._connected = connected
        parts = urlsplit(settings.cloud.broker)
        self._host = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS.get(parts.scheme, 8883)
        self._tls = parts.scheme == "mqtts"

    def look(self) -> list[Verdict]:
        """Return the verdicts in order; those after a failure are left out."""
        address = resolve(self._host)
        if not address:
            return [
                (
                    "DNS",
                    "Error",
                    f"the name {self._host} cannot be resolved",
                    f"getent hosts {self._host}  # then check /etc/resolv.conf",
                )
            ]
        out: list[Verdict] = [("DNS", "OK", f"{self._host} is {address}", "")]
        try:
            sock = socket.create_connection((self._host, self._port), TIMEOUT_S)
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
            return [
                *out,
                (
                    "TCP",
                    "Error",
                    f"{self._host}:{self._port}: {reason}",
                    f"nc -vz {self._host} {self._port}  # is cloudcore running, is a firewall between?",
                ),
            ]
        out.append(("TCP", "OK", f"{self._host}:{self._port} answers", ""))
        with sock:
            sock.settimeout(TIMEOUT_S)
            return out + (self._secure(sock) if self._tls else self._converse(sock))

    def _secure(self, sock: socket.socket) -> list[Verdict]:
        files = self._directory
        name = self._settings.cloud.server_name
        try:
            joined = files.joined()
            context = client_context(
                files.certificate if joined else None, files.key if joined else None, files.ca, name
            )
            with context.wrap_socket(sock, server_hostname=name) as tls:
                version = tls.version()
                return [("TLS", "OK", f"{version}, the server is {name}", ""), *self._converse(tls)]
        except UsageError as error:
            return [
                ("TLS", "Error", str(error), f"edgecore doctor --data-dir {files.path}  # see certificate and CA above")
            ]
        except (OSError, ssl.SSLError) as error:
            return [self._explain(error)]

    def _explain(self, error: Exception) -> Verdict:
        code = getattr(error, "verify_code", None)
        name = self._settings.cloud.server_name
        if code in X509_UNKNOWN_CA:
            return (
                "TLS",
                "Error",
                "the server's certificate comes from another CA than the one this node joined: wrong host, a proxy in between, or a new cloud",
                "edgecore reset  # only if the cloud was made anew; then join again",
            )
        if code == X509_WRONG_NAME:
            return (
                "TLS",
                "Error",
                f"the server's certificate does not carry the name {name}",
                "edgecore run --print-settings  # check cloud.broker and cloud.server_name",
            )
        if code == X509_EXPIRED:
            return ("TLS", "Error", "the server's certificate has expired, or this clock is ahead", "date -u")
        if code == X509_NOT_YET_VALID:
            return (
                "TLS",
                "Error",
                "the server's certificate is not valid yet: this clock is behind",
                "timedatectl set-ntp true",
            )
        return (
            "TLS",
            "Error",
            f"handshake failed: {getattr(error, 'reason', None) or error}",
            f"openssl s_client -connect {self._host}:{self._port} -servername {name}",
        )

    def _converse(self, sock: socket.socket) -> list[Verdict]:
        """CONNECT as the node and DISCONNECT; not while the daemon is connected, whose session this would take over."""
        if self._connected:
            return [("MQTT", "OK", "the running daemon is connected", "")]
        try:
            sock.sendall(connect_packet(self._settings.node or "doctor"))
            answer = sock.recv(4)
            if len(answer) == 4 and answer[0] == 0x20 and answer[3] == 0:  # CONNACK, accepted
                sock.sendall(b"\xe0\x00")  # DISCONNECT
                return [("MQTT", "OK", "the broker accepts this node", "")]
        except OSError as error:
            return [
                (
                    "MQTT",
                    "Error",
                    f"the broker closed the connection: {getattr(error, 'reason', None) or error}",
                    "cloudcore node list  # on the cloud: is this node revoked?",
                )
            ]
        if len(answer) < 4:
            return [
                (
                    "MQTT",
                    "Error",
                    "the broker closed the connection without an answer: identity refused, or no MQTT there",
                    "cloudcore node list  # on the cloud: is this node revoked?",
                )
            ]
        reason = CONNACK_REASONS.get(answer[3], f"return code {answer[3]}")
        return [
            (
                "MQTT",
                "Error",
                f"CONNECT refused: {reason}",
                "cloudcore node list  # on the cloud: is this node revoked?",
            )
        ]


def resolve(host: str) -> str:
    """One address of ``host``, "" when there is none within the time: getaddrinfo itself knows no time limit."""
    found: list[str] = []

    def work() -> None:
        try:
            found.append(str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return found[0] if found else ""


def connect_packet(client_id: str) -> bytes:
    """An MQTT 3.1.1 CONNECT with a clean session and a keep-alive of 10 s."""
    payload = len(client_id).to_bytes(2, "big") + client_id.encode()
    variable = b"\x00\x04MQTT\x04\x02\x00\x0a"
    return b"\x10" + bytes([len(variable) + len(payload)]) + variable + payload

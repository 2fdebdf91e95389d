"""The endpoint that renews certificates: can it be reached, and does its clock agree with ours?"""

import socket
import ssl
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from edgecore.data_dir import DataDir
from edgecore.reach import TIMEOUT_S, Verdict
from edgecore.settings import Settings
from proto.kit.errors import UsageError
from proto.kit.tls import client_context

RENEWAL, SKEW = "renewal endpoint", "clock against cloud"
MAX_HEAD_BYTES = 16384
SKEW_WARNING, SKEW_ERROR = timedelta(minutes=2), timedelta(hours=12)  # certificates are dated back by a day
SET_CLOCK = "timedatectl set-ntp true"


def look(directory: DataDir, settings: Settings, now: datetime) -> list[Verdict]:
    """Ask once for the CA, which anyone may, and read the Date of the answer."""
    parts = urlsplit(settings.cloud.join)
    host, port = parts.hostname or "", parts.port or 10002
    try:
        answer = _head(directory, settings, host, port)
    except (OSError, ssl.SSLError, UsageError) as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
        sentence = f"{host}:{port}: {reason}; the certificate cannot be renewed meanwhile"
        return [(RENEWAL, "Warning", sentence, f"nc -vz {host} {port}  # is a firewall between?")]
    out: list[Verdict] = [(RENEWAL, "OK", f"{host}:{port} answers", "")]
    theirs = _date(answer)
    return out if theirs is None else [*out, judge(now - theirs)]


def judge(skew: timedelta) -> Verdict:
    """What a difference of the clocks means (pure); positive: ours is ahead."""
    seconds = int(abs(skew).total_seconds())
    if abs(skew) <= SKEW_WARNING:
        return (SKEW, "OK", f"differs by {seconds} s", "")
    direction = "ahead of" if skew > timedelta(0) else "behind"
    sentence = f"this clock is {seconds} s {direction} the cloud's"
    if abs(skew) > SKEW_ERROR:
        return (SKEW, "Error", f"{sentence}: certificates will not be accepted", SET_CLOCK)
    return (SKEW, "Warning", f"{sentence}: times of reports look wrong", SET_CLOCK)


def _head(directory: DataDir, settings: Settings, host: str, port: int) -> str:
    context = client_context(ca=directory.ca)
    request = f"GET /ca.crt HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection((host, port), TIMEOUT_S) as sock:
        sock.settimeout(TIMEOUT_S)
        with context.wrap_socket(sock, server_hostname=settings.cloud.server_name) as tls:
            tls.sendall(request)
            raw = b""
            while b"\r\n\r\n" not in raw and len(raw) < MAX_HEAD_BYTES and (piece := tls.recv(4096)):
                raw += piece
    return raw.partition(b"\r\n\r\n")[0].decode("latin-1")


def _date(head: str) -> datetime | None:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            try:
                found = parsedate_to_datetime(value.strip())
            except (ValueError, TypeError):
                return None
            return found if found.tzinfo is not None else None
    return None

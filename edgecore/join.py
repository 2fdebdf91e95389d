"""Join a cloud: preflight, key, certificate, settings. Safe to run again at any point; it goes on where it stopped.

The CA is proved by the token's hash before the token is sent anywhere. ``node.crt`` is written last: with it on disk
the node has joined.
"""

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from edgecore import enrol
from edgecore.data_dir import DataDir
from edgecore.enrol import CALL_TIMEOUT_S, MAX_ANSWER_BYTES, Grant
from proto.kit import files, tls
from proto.kit.clock import Clock
from proto.kit.errors import SkerryError, Terminal, UsageError
from proto.kit.httpclient import HttpClient
from proto.kit.x509 import read_file, read_pem
from proto.names import MAX_NODE_NAME, is_node_name

DEFAULT_PORT = 10002
SKEW_WARNING = timedelta(minutes=2)
SKEW_LIMIT = timedelta(hours=12)  # certificates are dated back by a day
MAX_SETTINGS_BYTES = 1 << 20
RENEWAL_MARGIN = timedelta(days=1)


@dataclass
class Joined:
    """What a person is told at the end."""

    node: str
    data_dir: Path
    not_after: datetime
    already: bool = False  # nothing had to be done
    warnings: list[str] = field(default_factory=list)

    @property
    def next_command(self) -> str:
        return f"edgecore run --data-dir {self.data_dir}"


class PreflightFailed(Terminal):
    """Something about this machine or the way to the cloud keeps the node from joining."""

    code = "PreflightFailed"


async def join(
    cloud: str, token: str, node: str, data_dir: Path, *, clock: Clock, say: Callable[[str], None] = lambda _: None
) -> Joined:
    """Make this machine ``node`` of the cloud at ``cloud``. Raises UsageError, PreflightFailed, CloudRefused, …

    ``say`` gets one line per step that was done.
    """
    directory = DataDir(data_dir)
    url = cloud_url(cloud)
    ca_hash = token_hash(token)
    if not is_node_name(node):
        raise UsageError(f"--node {node!r}: use a-z, 0-9 and '-', at most {MAX_NODE_NAME} characters")
    _prepare(directory)
    existing = _existing(directory, node, ca_hash, url, clock)
    if existing is not None:
        return existing
    joined = Joined(node, data_dir, datetime.max.replace(tzinfo=UTC))
    try:
        ca = await _fetch_ca(url, ca_hash, clock, joined)
        say("the cloud's certificate authority is the one that the token names")
        csr = await enrol.run_keys("request", str(directory.key), node)
        client = HttpClient(url, tls=lambda: tls.client_context(ca=ca))
        try:
            body = {"token": token.strip(), "node": node, "csr": csr}
            grant = await enrol.call(client, "POST", "/join", body, Grant)
        finally:
            await client.close()
    except SkerryError as error:
        raise enrol.explain(error, url) from error
    joined.not_after = enrol.check_grant(grant, node).not_after
    say(f"certificate for {node}, good until {joined.not_after:%Y-%m-%d}, renewed by itself")
    _keep(directory, ca, grant, url)
    say(f"identity and settings are in {data_dir}")
    return joined


def cloud_url(text: str) -> str:
    """Return ``https://HOST:PORT`` of what was typed. Raises UsageError."""
    try:
        parts = urlsplit(text if "//" in text else f"https://{text}")
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise UsageError(f"--cloud {text!r}: write it as https://HOST:{DEFAULT_PORT}") from error
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(f"--cloud {text!r}: write it as https://HOST:{DEFAULT_PORT}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port}"


def token_hash(token: str) -> str:
    """Return the CA hash in ``token``. Raises UsageError."""
    parts = token.strip().split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isalnum() for p in parts) or len(parts[2]) != 64:
        raise UsageError("--token: this is no join token; copy the whole line that `cloudcore token create` printed")
    return parts[2].lower()


def _prepare(directory: DataDir) -> None:
    probe = directory.pki / ".probe"
    try:
        files.make_dir(directory.path)
        files.make_dir(directory.pki)
        files.write(probe, b"x")
        probe.unlink()
        enrol.finish_swap(directory)
    except OSError as error:
        raise PreflightFailed(
            f"data directory {directory.path}: {error.strerror}; use another --data-dir, or make room or rights for"
            f" user {os.geteuid()} there"
        ) from error


def _existing(directory: DataDir, node: str, ca_hash: str, url: str, clock: Clock) -> Joined | None:
    """Return what is already here when it is all there is to do. Raises PreflightFailed for another identity."""
    if not directory.joined():
        return None
    owner = enrol.node_of(directory)
    same_cloud = _hash(directory.ca.read_bytes()) == ca_hash
    if owner != node or not same_cloud:
        other = f"node {owner or '(unreadable)'}" + ("" if same_cloud else " of another cloud")
        raise PreflightFailed(
            f"{directory.path} belongs to {other}: use another --data-dir, or"
            f" `edgecore reset --data-dir {directory.path}` first"
        )
    facts = read_file(directory.certificate)
    settings = _read_settings(directory)
    configured = settings.get("node") == node and (settings.get("cloud") or {}).get("join") == url
    if not configured or facts.not_after - RENEWAL_MARGIN < clock.wall():
        return None
    return Joined(node, directory.path, facts.not_after, already=True)


async def _fetch_ca(url: str, ca_hash: str, clock: Clock, joined: Joined) -> bytes:
    client = HttpClient(url, tls=tls.bootstrap_context)
    try:
        answer = await client.request("GET", "/ca.crt", timeout_s=CALL_TIMEOUT_S, max_body_bytes=MAX_ANSWER_BYTES)
    finally:
        await client.close()
    if answer.status == 429 or answer.status >= 500:
        raise enrol.refused(answer.status, answer.body)
    if answer.status != 200:
        raise PreflightFailed(f"{url} is no join endpoint of cloudcore (HTTP status {answer.status} for /ca.crt)")
    _check_clock(answer.headers.get("date", ""), clock, joined)
    try:
        found = _hash(answer.body)
    except ValueError:
        raise PreflightFailed(f"{url} is no join endpoint of cloudcore: /ca.crt is no certificate") from None
    if found != ca_hash:
        raise PreflightFailed(
            f"{url} shows another certificate authority than the token names: it is another cloud, or somebody in"
            " between (a proxy, a captive portal); nothing was sent"
        )
    facts = read_pem(answer.body)
    if not facts.not_before <= clock.wall() <= facts.not_after:
        raise PreflightFailed(
            f"by this machine's clock ({clock.wall():%F %T} UTC) the cloud's certificates are not valid: set the clock"
        )
    return answer.body


def _check_clock(date: str, clock: Clock, joined: Joined) -> None:
    try:
        theirs = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return
    if theirs.tzinfo is None:
        return
    skew = clock.wall() - theirs
    direction = "ahead of" if skew > timedelta(0) else "behind"
    sentence = f"this machine's clock is {_rounded(abs(skew))} {direction} the cloud's ({theirs:%Y-%m-%d %H:%M:%S} UTC)"
    if abs(skew) > SKEW_LIMIT:
        raise PreflightFailed(f"{sentence}: set it, for example with `timedatectl set-ntp true`, and join again")
    if abs(skew) > SKEW_WARNING:
        joined.warnings.append(f"{sentence}; times of reports will look wrong until it is set")


def _rounded(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    hours = round(minutes / 60)
    return f"{hours} hours" if hours < 72 else f"{round(hours / 24)} days"


def _keep(directory: DataDir, ca: bytes, grant: Grant, url: str) -> None:
    certificate = grant.certificate.encode()
    tls.client_context(certificate, directory.key, ca)  # a certificate for another key is found now, not at run
    host = urlsplit(url).netloc.rpartition(":")[0]
    document = _read_settings(directory)
    document["node"] = grant.node
    cloud: dict[str, Any] = {
        "broker": grant.broker_url or f"mqtts://{host}:{grant.broker_port}",
        "join": url,
    }
    if grant.broker_server_name:
        cloud["server_name"] = grant.broker_server_name
    if grant.broker_mqtt_version in (4, 5):
        cloud["mqtt_version"] = grant.broker_mqtt_version
    document["cloud"] = {**(document.get("cloud") or {}), **cloud}
    try:
        files.write(directory.ca, ca, files.PUBLIC)
        files.write(directory.settings, yaml.safe_dump(document, sort_keys=False).encode(), files.PRIVATE)
        files.write(directory.certificate, certificate, files.PUBLIC)
    except OSError as error:
        raise PreflightFailed(
            f"data directory {directory.path}: {error.strerror}; nothing is lost, run it again"
        ) from error


def _read_settings(directory: DataDir) -> dict[str, Any]:
    """Return what ``edge.yaml`` says now: a person's other settings stay. Raises UsageError."""
    try:
        with directory.settings.open("rb") as file:
            document = yaml.safe_load(file.read(MAX_SETTINGS_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{directory.settings}: cannot be read as YAML: mend it or remove it") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("cloud") or {}, dict):
        raise UsageError(f"{directory.settings}: must be a mapping of settings: mend it or remove it")
    return document


def _hash(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())).hexdigest()

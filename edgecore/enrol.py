"""What joining and renewing share: the key child, calls to the join endpoint, the files of an identity.

A renewed pair is written beside the old one (``*.next``); ``node.crt.next`` on disk is the moment it counts, and
``finish_swap`` completes what a crash interrupted. Readers that meet the pair between two renames try again.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgecore.data_dir import DataDir
from proto.kit import canonical, files
from proto.kit.errors import MalformedMessage, Retryable, SkerryError, Terminal
from proto.kit.httpclient import HttpClient, HttpTimeout, HttpUnreachable, HttpUntrusted
from proto.kit.x509 import Facts, read_pem

NODE_USER = "system:node:"
CHILD_TIMEOUT_S = 60.0  # a gateway's first read of the library from a slow card
CALL_TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 64 * 1024
_ROOT = str(Path(__file__).resolve().parent.parent)  # the child finds this package wherever the daemon was started
T = TypeVar("T")


class KeyFailed(Terminal):
    """The child could not make or read a key."""

    code = "KeyFailed"


class CloudRefused(Terminal):
    """The join endpoint said no; the text is its sentence. ``status`` is the HTTP status."""

    code = "CloudRefused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class CloudBusy(Retryable):
    """The join endpoint cannot answer now."""

    code = "CloudBusy"


class Grant(msgspec.Struct):
    """What the join endpoint answers; unknown fields are of newer clouds."""

    node: str
    certificate: str
    ca: str
    broker_url: str = ""
    broker_port: int = 8883
    broker_server_name: str = ""
    broker_mqtt_version: int = 5


class _Refusal(msgspec.Struct):
    code: str = ""
    message: str = ""


async def run_keys(*arguments: str) -> str:
    """Run ``edgecore.keys`` and return what it prints. Raises KeyFailed."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgecore.keys",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        raise KeyFailed(f"key: no child process: {error.strerror}") from error
    try:
        async with asyncio.timeout(CHILD_TIMEOUT_S):
            out, complaint = await child.communicate()
    except BaseException as error:
        if child.returncode is None:
            child.kill()
            await child.wait()
        if isinstance(error, TimeoutError):
            raise KeyFailed(f"key: not made within {CHILD_TIMEOUT_S:g} s") from error
        raise
    if child.returncode:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise KeyFailed(lines[-1] if lines else f"key: the child ended with {child.returncode}")
    return out.decode()


async def call(client: HttpClient, method: str, path: str, document: Any, kind: type[T]) -> T:
    """Send JSON and return the answer as ``kind``. Raises CloudRefused, CloudBusy, and the client's errors."""
    body = msgspec.json.encode(document) if document is not None else b""
    answer = await client.request(
        method,
        path,
        headers={"content-type": "application/json", "accept": "application/json"},
        body=body,
        timeout_s=CALL_TIMEOUT_S,
        max_body_bytes=MAX_ANSWER_BYTES,
    )
    if answer.status == 200:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except canonical.UNREADABLE as error:
            raise CloudBusy(f"the cloud's answer cannot be read: {error}") from error
    raise refused(answer.status, answer.body)


def refused(status: int, body: bytes) -> SkerryError:
    """Return the error that an answer other than 200 stands for."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except canonical.UNREADABLE:
        refusal = _Refusal()
    text = "".join(c if c.isprintable() else " " for c in refusal.message)[:400] or f"HTTP status {status}"
    if status == 429 or status >= 500:
        return CloudBusy(f"the cloud cannot answer now: {text}")
    return CloudRefused(status, refusal.code, f"the cloud refused: {text}")


def explain(error: SkerryError, url: str) -> SkerryError:
    """Say what a person can do about a call to ``url`` that failed."""
    if isinstance(error, HttpUntrusted):
        return Terminal(f"{url}: the server is not the cloud that this node trusts ({error})")
    if isinstance(error, HttpUnreachable | HttpTimeout):
        return Retryable(f"cannot reach {url}: {error}; check the address, DNS, the network and the firewall")
    return error


def check_grant(grant: Grant, node: str) -> Facts:
    """Return the facts of the granted certificate. Raises CloudBusy when it is not for ``node``."""
    try:
        facts = read_pem(grant.certificate.encode())
    except MalformedMessage as error:
        raise CloudBusy("the cloud's answer holds no certificate") from error
    if facts.common_name != NODE_USER + node:
        raise CloudBusy(f"the cloud's answer is a certificate for {facts.common_name!r}, not for {node}")
    return facts


def node_of(directory: DataDir) -> str:
    """Return the node that the certificate on disk names; "" without one."""
    try:
        return read_pem(directory.certificate.read_bytes()).common_name.removeprefix(NODE_USER)
    except (OSError, MalformedMessage):
        return ""


def next_key(directory: DataDir) -> Path:
    """Where the key of a renewal waits for its certificate."""
    return directory.pki / "node.key.next"


def swap(directory: DataDir, certificate: bytes) -> None:
    """Make the renewed pair the node's own; durable on return. Raises OSError."""
    files.write(_next_certificate(directory), certificate, files.PUBLIC)
    finish_swap(directory)


def finish_swap(directory: DataDir) -> None:
    """Complete a swap that a crash interrupted; nothing when there is none. Raises OSError."""
    certificate = _next_certificate(directory)
    if not certificate.exists():
        return
    if next_key(directory).exists():
        next_key(directory).rename(directory.key)
        files.sync_dir(directory.pki)
    certificate.rename(directory.certificate)
    files.sync_dir(directory.pki)


def _next_certificate(directory: DataDir) -> Path:
    return directory.pki / "node.crt.next"

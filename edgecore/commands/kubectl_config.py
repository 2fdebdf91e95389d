"""``edgecore kubectl-config``: a kubeconfig of this node's own Kubernetes API, with the technician's credential inside."""

import argparse
import asyncio
import os
import sys
from base64 import b64encode
from pathlib import Path

import msgspec

from edgecore import enrol
from edgecore.commands import data_dir_of, settings_of
from edgecore.data_dir import DataDir
from edgecore.localapi.certificates import Certificates
from edgecore.settings import Settings
from edgecore.status import gather
from proto.kit import files
from proto.kit.clock import SystemClock
from proto.kit.errors import SkerryError, UsageError
from proto.writes import admin_of

TEXT = """apiVersion: v1
kind: Config
clusters:
- name: {context}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {context}
  context:
    cluster: {context}
    user: {user}
current-context: {context}
"""


def run(args: argparse.Namespace) -> int:
    directory = data_dir_of(args)
    settings = settings_of(args, directory)
    if not settings.node:
        raise UsageError(f"{directory.path} has not joined a cloud; next: edgecore join")
    if not settings.local_api.enabled:
        raise UsageError("the node-local API is off: set local_api.enabled")
    text = asyncio.run(kubeconfig(directory, settings))
    if args.out is None:
        sys.stdout.write(text)
        if os.isatty(1):
            sys.stderr.write("# this is a key: keep it in a file of mode 0600 (edgecore kubectl-config --out FILE)\n")
        return 0
    path = Path(args.out)
    files.write(path, text.encode(), files.PRIVATE)
    sys.stderr.write(f"written {path}, mode 0600\nnext: kubectl --kubeconfig {path} get pods -A\n")
    return 0


async def kubeconfig(directory: DataDir, settings: Settings) -> str:
    """Make a new credential and return the file that carries it. Raises SkerryError, OSError."""
    local, clock = settings.local_api, SystemClock()
    port = (gather(directory, settings, clock).get("local_api") or {}).get("port") or local.port
    if not port:
        raise SkerryError(
            "the node-local API has no fixed port and edgecore does not run: start it, or set local_api.port"
        )
    certificates = Certificates(directory, settings.node, [local.host, *filter(None, [local.pod_address])], clock)
    if not certificates.ca.exists():
        await certificates.ensure()
    printed = await enrol.run_keys("admin", str(directory.pki), settings.node, str(local.admin_days))
    pair = msgspec.json.decode(printed, type=dict[str, str])
    host = "127.0.0.1" if local.host in ("0.0.0.0", "::") else local.host  # noqa: S104  any address answers here
    return TEXT.format(
        context=f"edge-{settings.node}",
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        user=admin_of(settings.node),
        ca=_b64(certificates.ca.read_bytes()),
        certificate=_b64(pair["certificate"].encode()),
        key=_b64(pair["key"].encode()),
    )


def _b64(content: bytes) -> str:
    return b64encode(content).decode()

"""How the commands reach the API server and the running daemon."""

import argparse
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from cloudcore.commands import data_dir_of, settings_of
from cloudcore.data_dir import ADMIN_KUBECONFIG, read_addresses
from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.settings import Settings
from proto.kit.errors import UsageError

TIMEOUT_S = 3.0
MAX_STATUS_BYTES = 16 << 20


def access_of(settings: Settings, data_dir: Path) -> config.KubeAccess:
    """Return the access to the API server in use. Raises UsageError."""
    if settings.api.kubeconfig:
        return config.load(None if settings.api.kubeconfig == "in-cluster" else Path(settings.api.kubeconfig))
    path = data_dir / ADMIN_KUBECONFIG
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: start `cloudcore serve --data-dir {data_dir}` first, or pass --kubeconfig"
        )
    return config.load(path)


def client_of(args: argparse.Namespace) -> KubeClient:
    """Return a client. Call it inside a running loop; close it. Raises UsageError."""
    return KubeClient(access_of(settings_of(args), data_dir_of(args)))


def live_status(data_dir: Path) -> dict[str, Any] | None:
    """Return the running daemon's own status, None when it does not answer."""
    addresses = read_addresses(data_dir)
    if addresses is None or not addresses.admin:
        return None
    try:
        with urllib.request.urlopen(f"http://{addresses.admin}/status", timeout=TIMEOUT_S) as answer:
            found = msgspec.json.decode(answer.read(MAX_STATUS_BYTES))
    except (OSError, urllib.error.URLError, msgspec.DecodeError, ValueError):
        return None
    return found if isinstance(found, dict) else None

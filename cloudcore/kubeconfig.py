"""Writes kubeconfigs: whole files with the keys inside, so that they can be copied."""

import base64
from pathlib import Path

import yaml

from cloudcore.certs import Pair
from proto.kit import files


def write(path: Path, server: str, ca_pem: bytes, pair: Pair, *, user: str) -> bool:
    """Write ``path`` (0600) unless it already says the same; whether it changed. Raises OSError."""
    text = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "skerry", "cluster": {"server": server, "certificate-authority-data": _b64(ca_pem)}}],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _b64(pair.cert.read_bytes()),
                        "client-key-data": _b64(pair.key.read_bytes()),
                    },
                }
            ],
            "contexts": [{"name": "skerry", "context": {"cluster": "skerry", "user": user}}],
            "current-context": "skerry",
        },
        sort_keys=False,
    ).encode()
    if path.exists() and path.read_bytes() == text:
        return False
    files.write(path, text, files.PRIVATE)
    return True


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()

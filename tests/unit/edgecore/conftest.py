"""A joined data directory with real certificates, and a CA to make more."""

from pathlib import Path

import pytest

from cloudcore.certs import Authority
from edgecore.data_dir import DataDir
from proto.kit.clock import SystemClock

NODE = "gw-1"


def identity(authority: Authority, directory: DataDir, node: str = NODE) -> None:
    """Put a node's certificate, key and CA where join would."""
    directory.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = authority.client_certificate(node, f"system:node:{node}", ("system:nodes",))
    directory.certificate.write_bytes(pair.cert.read_bytes())
    directory.key.write_bytes(pair.key.read_bytes())
    directory.key.chmod(0o600)
    directory.ca.write_bytes(authority.ca_pem)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open_or_create(tmp_path_factory.mktemp("ca"), SystemClock())


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    path = tmp_path / "edge"
    path.mkdir(mode=0o700)
    return DataDir(path)


@pytest.fixture
def joined(directory: DataDir, authority: Authority) -> DataDir:
    identity(authority, directory)
    directory.settings.write_text(f"node: {NODE}\ncloud:\n  broker: mqtts://127.0.0.1:1\n")
    return directory

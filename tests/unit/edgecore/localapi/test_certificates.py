"""The CA and the serving certificate of the node-local API."""

from datetime import timedelta
from pathlib import Path

import pytest

from edgecore.data_dir import DataDir
from edgecore.localapi.certificates import Certificates
from proto.kit.x509 import read_file
from proto.writes import admin_of
from tests.kit.clock import ManualClock


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    (tmp_path / "pki").mkdir(mode=0o700)
    return DataDir(tmp_path)


async def test_the_serving_certificate_is_renewed_when_due_and_the_ca_stays(directory: DataDir) -> None:  # LOCAL-14
    clock = ManualClock()
    files = Certificates(directory, "gw-1", ["169.254.20.1"], clock)
    assert await files.ensure()
    clock.jump_wall(read_file(files.certificate).not_before - clock.wall() + timedelta(days=10))
    ca, first = files.ca.read_bytes(), read_file(files.certificate)
    assert not await files.ensure()

    clock.jump_wall(first.renew_at() - clock.wall() + timedelta(seconds=1))
    assert await files.ensure()

    assert read_file(files.certificate).serial != first.serial
    assert files.ca.read_bytes() == ca
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in directory.pki.glob("*.key")} == {
        "local-ca.key": "0o600",
        "local-api.key": "0o600",
    }


async def test_one_that_was_made_while_the_clock_was_ahead_is_made_again(directory: DataDir) -> None:  # LOCAL-14
    clock = ManualClock()
    files = Certificates(directory, "gw-1", [], clock)
    await files.ensure()
    clock.jump_wall(read_file(files.certificate).not_before - clock.wall() - timedelta(days=400))
    assert await files.ensure()


def test_the_technicians_name_fits_into_a_certificate() -> None:
    assert admin_of("gw-1") == "skerry:node-admin:gw-1"
    assert len(admin_of("a" * 52)) == 64

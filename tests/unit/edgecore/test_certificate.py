from datetime import timedelta
from pathlib import Path

import pytest

from cloudcore.certs import Authority
from edgecore import certificate
from edgecore.data_dir import DataDir
from proto.kit.clock import SystemClock


def test_the_certificate_says_whose_it_is_and_how_long(joined: DataDir) -> None:
    found = certificate.read(joined.certificate)

    assert found.common_name == "system:node:gw-1"
    assert certificate.days_left(found, found.not_after - timedelta(days=3)) == 3


def test_a_certificate_that_its_ca_signed_is_proved(joined: DataDir) -> None:
    certificate.verify(joined.certificate, joined.key, joined.ca)


def test_another_ca_is_noticed(joined: DataDir, tmp_path: Path) -> None:
    other = Authority.open_or_create(tmp_path / "other", SystemClock())
    joined.ca.write_bytes(other.ca_pem)

    with pytest.raises(certificate.BadCertificate):
        certificate.verify(joined.certificate, joined.key, joined.ca)


def test_another_key_is_noticed(joined: DataDir, authority: Authority) -> None:
    joined.key.write_bytes(authority.client_certificate("other", "system:node:other").key.read_bytes())

    with pytest.raises(certificate.BadCertificate, match="key values mismatch"):
        certificate.verify(joined.certificate, joined.key, joined.ca)


@pytest.mark.parametrize(
    "content", [b"", b"not pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_certificate_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "node.crt"
    file.write_bytes(content)

    with pytest.raises(certificate.BadCertificate, match="no PEM certificate"):
        certificate.read(file)

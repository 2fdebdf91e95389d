"""The authority: one CA per directory whoever starts first, certificates that say what they must and no more."""

import multiprocessing
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudcore.certs import Authority, CaUnusable, CertificateRefused, node_user
from proto.kit.clock import SystemClock
from proto.kit.errors import MalformedMessage
from proto.kit.x509 import read_file, read_pem
from tests.kit.clock import ManualClock


def make_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "whoever") -> bytes:
    subject = cx509.Name([cx509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = cx509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


def open_ca(directory: Path) -> str:
    return Authority.open_or_create(directory, SystemClock()).ca_hash


def test_daemons_that_start_at_once_end_with_one_ca(tmp_path: Path) -> None:
    with multiprocessing.get_context("forkserver").Pool(4) as pool:
        hashes_seen = set(pool.map(open_ca, [tmp_path / "pki"] * 8))
    assert len(hashes_seen) == 1
    assert open_ca(tmp_path / "pki") in hashes_seen
    assert sorted(f.name for f in (tmp_path / "pki").iterdir()) == ["ca.crt", "ca.key"]


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path / "pki", SystemClock())
    authority.server_certificate()
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "pki").iterdir()}
    assert modes["ca.key"] == modes["server.key"] == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_a_new_data_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    Authority.open_or_create(tmp_path / "cloud" / "pki", ManualClock())
    assert [(tmp_path / at).stat().st_mode & 0o777 for at in ("cloud", "cloud/pki")] == [0o700, 0o700]


def test_a_damaged_ca_is_one_sentence_and_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_bytes(b"half a k")
    with pytest.raises(CaUnusable, match="restore"):
        Authority.open_or_create(tmp_path, SystemClock())
    assert (tmp_path / "ca.key").read_bytes() == b"half a k"


def test_a_request_gets_the_name_that_we_chose_and_not_its_own(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path, SystemClock())
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), name="system:admin")
    issued = authority.sign_csr(csr, user=node_user("gw-1"), groups=["system:nodes"])
    certificate = cx509.load_pem_x509_certificate(issued.pem)
    assert certificate.subject.rfc4514_string() == "CN=system:node:gw-1,O=system:nodes"
    usage = certificate.extensions.get_extension_for_class(cx509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(cx509.BasicConstraints).value.ca


def test_facts_are_read_without_the_big_library(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path, SystemClock())
    for _ in range(50):
        pem, _key = authority.issue("system:node:gw-1", ["system:nodes", "x" * 60])
        truth, found = cx509.load_pem_x509_certificate(pem), read_pem(pem)
        assert int(found.serial, 16) == truth.serial_number
        assert found.not_before == truth.not_valid_before_utc
        assert found.not_after == truth.not_valid_after_utc
        assert found.common_name == "system:node:gw-1"
        life = found.not_after - found.not_before
        assert 0.7 * life <= found.renew_at() - found.not_before <= 0.9 * life
    for bad in (
        b"",
        b"\xff",
        pem[:300],
        pem.replace(b"M", b"!", 3),
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
    ):
        with pytest.raises(MalformedMessage):
            read_pem(bad)


def test_weak_keys_and_forged_requests_are_refused(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path, SystemClock())
    with pytest.raises(CertificateRefused, match="RSA of 2048"):
        authority.sign_csr(make_csr(rsa.generate_private_key(65537, 1024)), user="x")
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(cx509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = cx509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateRefused, match="own key"):
        authority.sign_csr(forged, user="x")
    for bad in (b"", b"nonsense", b"x" * 100_000, csr[:200]):
        with pytest.raises(MalformedMessage):
            authority.sign_csr(bad, user="x")


def test_the_server_certificate_is_kept_until_it_is_due_or_its_names_change(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = Authority.open_or_create(tmp_path, clock)
    first = read_file(authority.server_certificate(["10.0.0.7", "cloud.example"]).cert)
    assert read_file(authority.server_certificate(["10.0.0.7", "cloud.example"]).cert) == first
    renamed = read_file(authority.server_certificate(["cloud.example"]).cert)
    assert renamed.serial != first.serial
    clock.advance((renamed.renew_at() - clock.wall()).total_seconds() + 1)
    assert clock.wall() < renamed.not_after
    assert read_file(authority.server_certificate(["cloud.example"]).cert).serial != renamed.serial


def test_a_pair_torn_by_a_crash_is_made_again(tmp_path: Path) -> None:
    authority = Authority.open_or_create(tmp_path, SystemClock())
    pair = authority.client_certificate("admin", "admin")
    pair.key.write_bytes(authority.issue("other")[1])
    before = pair.cert.read_bytes()
    assert authority.client_certificate("admin", "admin").cert.read_bytes() != before


def test_no_certificate_outlives_the_ca(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = Authority.open_or_create(tmp_path, clock)
    clock.advance(timedelta(days=3640).total_seconds())
    assert authority.sign_csr(make_csr(ec.generate_private_key(ec.SECP256R1())), user="x").not_after == (
        authority.certificate.not_valid_after_utc
    )

"""The certificate authority: one per data directory, made at first start, and everything it signs.

``ca.key`` holds the CA's key and certificate in one file, so that two daemons starting at once end with one CA;
``ca.crt`` is its public copy. Private files are 0600.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proto.kit import files
from proto.kit import x509 as facts
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, Terminal
from proto.kit.log import Logger
from proto.kit.tls import SERVER_NAME

CA_DAYS = 3650
SERVER_DAYS = 90
CLIENT_DAYS = 90
NODE_USER = "system:node:"
NODE_GROUP = "system:nodes"
ADMIN_GROUP = "system:masters"
BACKDATE = timedelta(days=1)  # a gateway whose clock is behind by less than this still accepts us
MAX_CSR_BYTES = 8 * 1024
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096
LOCAL_NAMES = (SERVER_NAME, "localhost", "127.0.0.1", "::1")
RENEW_CHECK_S = 3600.0

log = Logger("certs")
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class CertificateRefused(Terminal):
    """A request that this CA does not sign: the sentence says why."""

    code = "CertificateRefused"


class CaUnusable(Terminal):
    """The CA's own files cannot be read: nothing can be signed until a person restores them."""

    code = "CaUnusable"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate just signed. ``serial`` is written as ``ssl`` and OpenSSL show it."""

    pem: bytes
    serial: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its key are."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates. ``directory`` is the ``pki`` of the data directory."""

    def __init__(
        self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, clock: Clock
    ) -> None:
        self.directory = directory
        self.ca_file = directory / "ca.crt"
        self.certificate = certificate
        self.ca_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.ca_hash = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        self._key = key
        self._clock = clock

    @classmethod
    def open_or_create(cls, directory: Path, clock: Clock) -> "Authority":
        """Return the CA of ``directory``, made now if there is none. Raises CaUnusable."""
        secret = directory / "ca.key"
        try:
            files.make_dir(directory.parent)  # the data directory, where a command comes before the daemon
            files.make_dir(directory)
            if not secret.exists() and files.create(secret, _new_ca(clock)):
                log.info("certificate authority made", file=secret)
            secret.chmod(files.PRIVATE)
            key, certificate = _read_ca(secret.read_bytes())
            authority = cls(directory, key, certificate, clock)
            if not authority.ca_file.exists() or authority.ca_file.read_bytes() != authority.ca_pem:
                files.write(authority.ca_file, authority.ca_pem, files.PUBLIC)
        except OSError as error:
            raise CaUnusable(f"certificate authority in {directory}: {error.strerror or error}") from error
        return authority

    def check_clock(self) -> None:
        """Raise CaUnusable when, by this machine's clock, the CA is not valid: nobody would be trusted."""
        now, begin, end = (
            self._clock.wall(),
            self.certificate.not_valid_before_utc,
            self.certificate.not_valid_after_utc,
        )
        if not begin <= now <= end:
            raise CaUnusable(
                f"by this machine's clock ({now:%F %T} UTC) the certificate authority is not valid ({begin:%F} to {end:%F}):"
                " set the clock, for example with `timedatectl set-ntp true`"
            )

    def sign_csr(
        self, pem: bytes, *, user: str, groups: Sequence[str] = (), days: float = CLIENT_DAYS, sans: Sequence[str] = ()
    ) -> Issued:
        """Sign a request's key for ``user`` in ``groups``; whatever subject the request names is not used.

        With ``sans`` it is a server's certificate, else a client's. Raises MalformedMessage, CertificateRefused.
        """
        if any(name.lower().rstrip(".") == SERVER_NAME or "*" in name for name in sans):
            raise CertificateRefused(f"the name {SERVER_NAME} is the cloud's own, and wildcards could stand for it")
        return self._sign(parse_csr(pem).public_key(), user, groups, days, sans)

    def issue(
        self, user: str, groups: Sequence[str] = (), *, days: float = CLIENT_DAYS, sans: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        """Make a key and a certificate for it; returns (certificate PEM, key PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(key.public_key(), user, groups, days, sans).pem, _key_pem(key)

    def server_certificate(self, names: Sequence[str] = (), directory: Path | None = None) -> Pair:
        """Return a server certificate for the fixed name, this machine and ``names``, renewed when due.

        ``directory`` (ours by default) is another for a broker that reads its own copy.
        """
        wanted = sorted({*LOCAL_NAMES, *names})
        pair = self._pair("server", directory)
        if not self._good(pair) or _sans(pair.cert.read_bytes()) != wanted:
            self._write(pair, *self.issue(SERVER_NAME, days=SERVER_DAYS, sans=wanted))
        return pair

    def client_certificate(self, name: str, user: str, groups: Sequence[str] = (ADMIN_GROUP,)) -> Pair:
        """Return the client certificate kept as ``name``, renewed when due."""
        pair = self._pair(name)
        if not self._good(pair):
            self._write(pair, *self.issue(user, groups))
        return pair

    def signed_by_us(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed ``certificate``; says nothing about its dates."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    async def keep_fresh(self, names: Sequence[str], clients: Sequence[tuple[str, str, Sequence[str]]] = ()) -> None:
        """Renew the daemon's own certificates when they are due, until cancelled; listeners reload the files."""
        while True:
            await self._clock.sleep(RENEW_CHECK_S)
            try:
                self.server_certificate(names)
                for client in clients:
                    self.client_certificate(*client)
            except OSError as error:
                log.warning("own certificate not renewed", error=error)

    def crl(self, revoked: Sequence[tuple[str, datetime]]) -> bytes:
        """Return the list of revoked serial numbers, in PEM, for brokers that ask OpenSSL and not us."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(self._clock.wall() - BACKDATE)
            # OpenSSL refuses everybody once a list is out of date, so it lasts as long as the CA.
            .next_update(self.certificate.not_valid_after_utc)
        )
        for serial, at in sorted(revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _pair(self, name: str, directory: Path | None = None) -> Pair:
        home = directory or self.directory
        return Pair(home / f"{name}.crt", home / f"{name}.key")

    def _good(self, pair: Pair) -> bool:
        try:
            content = pair.cert.read_bytes()
            certificate = x509.load_pem_x509_certificate(content)
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
            renew_at = facts.read_pem(content).renew_at()
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm, MalformedMessage):
            return False
        # A crash between the two renames leaves a pair that does not match.
        matches = _public_bytes(certificate.public_key()) == _public_bytes(key.public_key())
        return matches and self.signed_by_us(certificate) and self._clock.wall() < renew_at

    def _write(self, pair: Pair, cert: bytes, key: bytes) -> None:
        files.write(pair.key, key)
        files.write(pair.cert, cert, files.PUBLIC)
        log.info("certificate issued", file=pair.cert, until=facts.read_pem(cert).not_after.isoformat())

    def _sign(self, key: object, user: str, groups: Sequence[str], days: float, sans: Sequence[str]) -> Issued:
        public = acceptable_key(key)
        now = self._clock.wall().replace(microsecond=0)
        until = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        since = now - _backdate(until - now)
        try:
            builder = (
                x509.CertificateBuilder()
                .subject_name(_name(user, groups))
                .issuer_name(self.certificate.subject)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(since)
                .not_valid_after(until)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_usage(), critical=True)
                .add_extension(
                    x509.ExtendedKeyUsage(
                        [ExtendedKeyUsageOID.SERVER_AUTH if sans else ExtendedKeyUsageOID.CLIENT_AUTH]
                    ),
                    critical=False,
                )
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
                )
            )
            if sans:
                builder = builder.add_extension(x509.SubjectAlternativeName([_san(s) for s in sans]), critical=False)
            signed = builder.sign(self._key, hashes.SHA256())
        except ValueError as error:
            raise CertificateRefused(f"no certificate for {user!r}: {error}") from error
        pem = signed.public_bytes(serialization.Encoding.PEM)
        return Issued(pem, facts.read_pem(pem).serial, signed.not_valid_after_utc)


def parse_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """Return a request that proves its own key. Raises MalformedMessage, CertificateRefused."""
    if len(pem) > MAX_CSR_BYTES:
        raise MalformedMessage(f"the certificate request is above {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        proven = csr.is_signature_valid
        acceptable_key(csr.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedMessage("the certificate request is no PEM CSR that can be read") from error
    if not proven:
        raise CertificateRefused("the certificate request is not signed by its own key")
    return csr


def acceptable_key(key: object) -> PublicKey:
    """Return ``key`` if it is strong enough. Raises CertificateRefused."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return key
    raise CertificateRefused("the key must be ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 4096 bits")


def key_hash(key: object) -> str:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo, hexadecimal: what a token is bound to."""
    return hashlib.sha256(_public_bytes(key)).hexdigest()


def node_user(node: str) -> str:
    """Return the user name that a node's certificate carries."""
    return NODE_USER + node


def _new_ca(clock: Clock) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = clock.wall().replace(microsecond=0)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "skerry"),
            # Unlike names keep two clouds' authorities apart where a person trusts both.
            x509.NameAttribute(NameOID.COMMON_NAME, f"skerry-ca-{secrets.token_hex(4)}"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _read_ca(content: bytes) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(content, None)
        certificate = x509.load_pem_x509_certificate(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CaUnusable("ca.key is damaged: restore it with `cloudcore restore FILE`") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key_hash(key.public_key()) != key_hash(
        certificate.public_key()
    ):
        raise CaUnusable("ca.key holds a key and a certificate that do not belong together: restore it")
    return key, certificate


def _backdate(life: timedelta) -> timedelta:
    """How far a certificate is dated back: of a short one by a tenth of its life, or it would be due for renewal at once."""
    if life <= timedelta(0):
        return BACKDATE
    return max(min(BACKDATE, life / 10), timedelta(seconds=1))


def _usage(*, ca: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _sans(pem: bytes) -> list[str]:
    found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return sorted(str(name.value) for name in found.value)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_bytes(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    out: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return out

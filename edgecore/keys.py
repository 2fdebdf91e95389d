"""A short-lived child that makes keys and signs with them, so that the daemon never loads ``cryptography``.

``python -m edgecore.keys request KEY NODE`` prints a CSR for the key in the file KEY, made now if it is not there.
``python -m edgecore.keys renew OLD_KEY NEW_KEY NODE NONCE`` prints JSON {csr, signature}: a CSR for NEW_KEY, signed by OLD_KEY.
``python -m edgecore.keys local PKI NODE ADDRESS…`` makes the CA of the node-local API where it lacks, and a new serving pair.
``python -m edgecore.keys admin PKI NODE DAYS`` prints JSON {certificate, key}: the technician's, signed by that CA.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgecore.data_dir import LOCAL_CA, LOCAL_CA_KEY, LOCAL_CERTIFICATE, LOCAL_KEY
from proto.kit import files
from proto.writes import ADMIN_GROUP, MAX_NAME, admin_of

LOCAL_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
SERVING_DAYS = 365
ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
RENEW_PREFIX = b"skerry-renew-1\0"  # what the join endpoint expects in front of a signed renewal


def main(argv: Sequence[str]) -> int:
    """Run one command; an error is one line on standard error."""
    try:
        match argv:
            case ["request", key, node]:
                sys.stdout.write(request(load_or_make(Path(key)), node))
            case ["renew", old, new, node, nonce]:
                csr = request(load_or_make(Path(new)), node)
                message = RENEW_PREFIX + nonce.encode() + b"\0" + csr.encode()
                signature = load(Path(old)).sign(message, ec.ECDSA(hashes.SHA256()))
                json.dump({"csr": csr, "signature": b64encode(signature).decode()}, sys.stdout)
            case ["local", pki, node, *addresses]:
                local(Path(pki), node, addresses)
            case ["admin", pki, node, days]:
                json.dump(admin(Path(pki), node, int(days)), sys.stdout)
            case _:
                sys.stderr.write("usage: request KEY NODE | renew OLD_KEY NEW_KEY NODE NONCE | local … | admin …\n")
                return 2
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0][:120]
        sys.stderr.write(f"key: {reason}\n")
        return 1
    return 0


def load_or_make(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in ``path``, made there first if nobody has. Raises OSError, ValueError."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        files.create(path, _private(key))
    return load(path)


def load(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in ``path``. Raises OSError, ValueError."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no ECDSA key")
    return key


def request(key: ec.EllipticCurvePrivateKey, node: str) -> str:
    """Return a CSR for ``key`` in PEM."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def local(pki: Path, node: str, addresses: Sequence[str]) -> None:
    """Write ``local-ca.{crt,key}`` unless they are there, and a new ``local-api.{crt,key}``. Raises OSError, ValueError."""
    key = load_or_make(pki / LOCAL_CA_KEY)
    name = _name(f"skerry local API of {node}")
    if not (pki / LOCAL_CA).exists():
        # Made once, at a moment when the clock of a gateway may be anything: it holds for ever, both ways.
        ca = _certificate(name, name, key.public_key(), ALWAYS[0], ALWAYS[1])
        ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        ca = ca.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        files.create(pki / LOCAL_CA, _pem(ca.sign(key, hashes.SHA256())), files.PUBLIC)
    fresh = ec.generate_private_key(ec.SECP256R1())
    sans: list[x509.GeneralName] = [x509.DNSName(host) for host in (*LOCAL_NAMES, node)]
    sans += [x509.IPAddress(ip_address(address)) for address in dict.fromkeys(("127.0.0.1", "::1", *addresses))]
    serving = _leaf(pki, key, _name(node), fresh, SERVING_DAYS, ExtendedKeyUsageOID.SERVER_AUTH)
    serving = serving.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    files.write(pki / LOCAL_KEY, _private(fresh))  # readers that meet the pair between the two files try again
    files.write(pki / LOCAL_CERTIFICATE, _pem(serving.sign(key, hashes.SHA256())), files.PUBLIC)


def admin(pki: Path, node: str, days: int) -> dict[str, str]:
    """Return a new pair that is the technician at ``node``. Raises OSError, ValueError."""
    key, fresh = load(pki / LOCAL_CA_KEY), ec.generate_private_key(ec.SECP256R1())
    subject = _name(admin_of(node), ADMIN_GROUP)
    leaf = _leaf(pki, key, subject, fresh, days, ExtendedKeyUsageOID.CLIENT_AUTH)
    return {"certificate": _pem(leaf.sign(key, hashes.SHA256())).decode(), "key": _private(fresh).decode()}


def _leaf(
    pki: Path,
    ca_key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    usage: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    ca = x509.load_pem_x509_certificate((pki / LOCAL_CA).read_bytes())
    now = datetime.now(UTC)
    leaf = _certificate(subject, ca.subject, key.public_key(), now - timedelta(days=1), now + timedelta(days=days))
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(_usage(digital_signature=True), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    leaf = leaf.add_extension(authority, critical=False)
    return leaf.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _name(common: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common[:MAX_NAME])])


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

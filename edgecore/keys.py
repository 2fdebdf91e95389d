"""A short-lived child that makes keys and signs with them, so that the daemon never loads ``cryptography``.

``python -m edgecore.keys request KEY NODE`` prints a CSR for the key in the file KEY, made now if it is not there.
``python -m edgecore.keys renew OLD_KEY NEW_KEY NODE NONCE`` prints JSON {csr, signature}: a CSR for NEW_KEY, signed by OLD_KEY.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proto.kit import files

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
            case _:
                sys.stderr.write("usage: request KEY NODE | renew OLD_KEY NEW_KEY NODE NONCE\n")
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
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files.create(path, pem)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

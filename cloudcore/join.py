"""The join endpoint: HTTPS on its own port, open to machines that have no certificate yet, so everything is bounded.

``GET /ca.crt`` · ``POST /join {token, node, csr}`` · ``GET /nonce`` · ``POST /renew {certificate, csr, nonce, signature}``.
A renewal is signed by the old key over the server's nonce, so it also works after TLS refuses the old certificate.
"""

import binascii
import hashlib
import hmac
import secrets
import ssl
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from cloudcore import certs, revocation, tokens
from cloudcore.certs import Authority, CertificateRefused, Issued
from cloudcore.revocation import Revocations
from cloudcore.sql import Sql, SqlUnavailable
from cloudcore.tokens import TokenRefused
from kubeapi.http import HttpServer, Limits, Request, Response
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.tls import SERVER_NAME
from proto.kit.x509 import read_pem
from proto.names import is_node_name

MAX_BODY_BYTES = 16 * 1024
NONCE_LIFE_S = 300
RENEW_PREFIX = b"skerry-renew-1\0"  # so that no other signature of this key can be taken for a renewal
T = TypeVar("T")

log = Logger("join")


class JoinSettings(msgspec.Struct, frozen=True):
    """What the endpoint tells a node that joined, and how long things live."""

    broker_url: str = ""  # "": the embedded broker at the host that the node typed
    broker_port: int = 8883
    broker_server_name: str = SERVER_NAME  # name that the broker's certificate must carry
    broker_mqtt_version: int = 5  # 4 is MQTT 3.1.1
    node_days: float = float(certs.CLIENT_DAYS)
    grace_days: float = 365.0  # how long after its end a certificate can still be renewed
    calls_per_s: float = 50.0  # per address, everything
    refusals_per_s: float = 0.2  # per address, after the burst; guessing a token is hopeless, trying is noise
    refusals_burst: int = 20


class JoinBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /join``."""

    token: str
    node: str
    csr: str


class RenewBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /renew``. ``signature``: base64 of ECDSA-SHA256 by the old key, see ``renewal_message``."""

    certificate: str
    csr: str
    nonce: str
    signature: str


class Answer(msgspec.Struct):
    """What a node gets: its certificate and where the cloud is."""

    node: str
    certificate: str
    ca: str
    broker_url: str
    broker_port: int
    broker_server_name: str
    broker_mqtt_version: int
    not_after: str


class JoinRefused(Terminal):
    """A request that gets no certificate. ``reason`` is a counter's label."""

    code = "JoinRefused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class JoinServer:
    """Serves the endpoint. ``revocations`` is refreshed after each join, so that the node is let in at once."""

    def __init__(
        self,
        authority: Authority,
        sql: Sql,
        settings: JoinSettings | None = None,
        *,
        clock: Clock,
        metrics: Metrics,
        revocations: Revocations | None = None,
    ) -> None:
        self._authority, self._sql, self._clock = authority, sql, clock
        self._settings = settings or JoinSettings()
        self._revocations = revocations
        self._secret = secrets.token_bytes(32)
        self._calls = Rates(self._settings.calls_per_s, 10 * self._settings.calls_per_s, clock)
        self._refusals = Rates(self._settings.refusals_per_s, self._settings.refusals_burst, clock)
        self._issued = metrics.counter("skerry_join_issued_total", "Node certificates issued, by way", ("way",))
        self._refused = metrics.counter("skerry_join_refused_total", "Join requests refused, by reason", ("reason",))
        limits = Limits(max_head_bytes=8192, max_body_bytes=MAX_BODY_BYTES, max_connections=512, idle_timeout_s=15.0)
        self._http = HttpServer(self.handle, limits, clock=clock, refuse=refusal, metrics=metrics, name="join")
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "/ca.crt"): self._ca,
            ("GET", "/nonce"): self._nonce,
            ("POST", "/join"): self._join,
            ("POST", "/renew"): self._renew,
        }

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext) -> int:
        """Listen and return the bound port. Raises OSError."""
        return await self._http.start(host, port, ssl_context)

    async def close(self) -> None:
        await self._http.close()

    async def handle(self, request: Request) -> Response:
        """Answer one request; every refusal is one sentence, a status and a counter."""
        try:
            if self._refusals.empty(request.peer_host) or not self._calls.take(request.peer_host):
                raise JoinRefused(429, "rate", "too many requests from this address; wait a minute")  # noqa: TRY301
            route = self._routes.get((request.method, request.path))
            if route is not None:
                return await route(request)
            known = any(path == request.path for _, path in self._routes)
            status, text = (405, "method not allowed here") if known else (404, "not found; this is a join endpoint")
            raise JoinRefused(status, "path", text)  # noqa: TRY301
        except SqlUnavailable:
            self._refused.inc("database")
            return refusal(503, "the cloud's database does not answer; try again", "Unavailable", retry_after_s=5)
        except JoinRefused as error:
            refused = error
        except TokenRefused as error:
            status = {"malformed": 400, "other_node": 403, "used": 403}.get(error.reason, 401)
            refused = JoinRefused(status, f"token_{error.reason}", str(error))
        except MalformedMessage as error:
            refused = JoinRefused(400, "malformed", str(error))
        except CertificateRefused as error:
            refused = JoinRefused(403, "certificate", str(error))
        return self._refuse(request, refused)

    def _refuse(self, request: Request, error: JoinRefused) -> Response:
        self._refused.inc(error.reason)
        if error.reason != "rate":
            self._refusals.take(request.peer_host)
            log.info("join refused", address=request.peer_host, path=request.path[:40], reason=error.reason)
        retry_after_s = 60 if error.status == 429 else None
        return refusal(error.status, str(error), error.reason, retry_after_s=retry_after_s)

    async def _ca(self, _request: Request) -> Response:
        return Response(200, "application/x-pem-file", body=self._authority.ca_pem)

    async def _nonce(self, _request: Request) -> Response:
        return _json({"nonce": self._make_nonce()})

    async def _join(self, request: Request) -> Response:
        body = _decode(request, JoinBody)
        if not is_node_name(body.node):
            raise JoinRefused(
                400, "node_name", "node: must be a DNS-1123 label: a-z, 0-9 and '-', at most 52 characters"
            )
        csr = body.csr.encode()
        key_hash = certs.key_hash(certs.parse_csr(csr).public_key())

        def work(connection: Connection) -> Issued:
            now = self._clock.wall()
            reserved = tokens.redeem(
                connection, body.token, ca_hash=self._authority.ca_hash, key_hash=key_hash, node=body.node, now=now
            )
            _check_name(connection, body.node, key_hash, reserved=reserved == body.node)
            revocation.admit(connection, body.node, key_hash, now)
            return self._issue(connection, body.node, csr, key_hash)

        issued = await self._sql.tx(work)
        self._issued.inc("join")
        log.info("node joined", node=body.node, address=request.peer_host, serial=issued.serial)
        if self._revocations is not None:
            await self._revocations.load()
        return self._answer(body.node, issued)

    async def _renew(self, request: Request) -> Response:
        body = _decode(request, RenewBody)
        old = self._verify_renewal(body)
        csr = body.csr.encode()
        key_hash = certs.key_hash(certs.parse_csr(csr).public_key())

        def work(connection: Connection) -> Issued:
            _, revoked_keys = revocation.keys_of(connection, old.node)
            if revocation.is_revoked(connection, old.node, old.serial) or key_hash in revoked_keys:
                raise JoinRefused(403, "revoked", f"node {old.node} was revoked: it must join again with a new token")
            return self._issue(connection, old.node, csr, key_hash)

        issued = await self._sql.tx(work)
        self._issued.inc("renew")
        log.info("certificate renewed", node=old.node, address=request.peer_host, serial=issued.serial)
        return self._answer(old.node, issued)

    def _issue(self, connection: Connection, node: str, csr: bytes, key_hash: str) -> Issued:
        issued = self._authority.sign_csr(
            csr, user=certs.node_user(node), groups=[certs.NODE_GROUP], days=self._settings.node_days
        )
        revocation.record(
            connection,
            node,
            serial=issued.serial,
            key_hash=key_hash,
            not_after=issued.not_after,
            now=self._clock.wall(),
        )
        return issued

    def _verify_renewal(self, body: RenewBody) -> "_OldCertificate":
        if not self._nonce_is_ours(body.nonce):
            raise JoinRefused(400, "nonce", "the nonce is not ours or older than five minutes; ask for another")
        try:
            certificate = x509.load_pem_x509_certificate(body.certificate.encode())
            signature = b64decode(body.signature, validate=True)
            public = certificate.public_key()
            node = _node_of(certificate)
        except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error) as error:
            raise MalformedMessage("certificate or signature cannot be read") from error
        if not node or not self._authority.signed_by_us(certificate):
            raise JoinRefused(401, "foreign", "the certificate is no node certificate of this cloud: join with a token")
        if certificate.not_valid_after_utc + timedelta(days=self._settings.grace_days) < self._clock.wall():
            ended = certificate.not_valid_after_utc.date()
            raise JoinRefused(401, "expired", f"the certificate ended on {ended}, too long ago: join with a new token")
        try:
            if not isinstance(public, ec.EllipticCurvePublicKey):
                raise InvalidSignature  # noqa: TRY301  our own edges only make such keys
            public.verify(signature, renewal_message(body.nonce, body.csr), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise JoinRefused(401, "signature", "the request is not signed by the certificate's key") from error
        return _OldCertificate(node, read_pem(body.certificate.encode()).serial)

    def _answer(self, node: str, issued: Issued) -> Response:
        settings = self._settings
        return _json(
            Answer(
                node=node,
                certificate=issued.pem.decode(),
                ca=self._authority.ca_pem.decode(),
                broker_url=settings.broker_url,
                broker_port=settings.broker_port,
                broker_server_name=settings.broker_server_name,
                broker_mqtt_version=settings.broker_mqtt_version,
                not_after=issued.not_after.isoformat(),
            )
        )

    def _make_nonce(self) -> str:
        at = f"{int(self._clock.now_s())}.{secrets.token_hex(8)}"
        return f"{at}.{self._mac(at)}"

    def _nonce_is_ours(self, nonce: str) -> bool:
        at, _, mac = nonce.rpartition(".")
        if not at.isascii() or not hmac.compare_digest(self._mac(at).encode(), mac.encode()):
            return False
        return self._clock.now_s() - int(at.partition(".")[0]) <= NONCE_LIFE_S

    def _mac(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _OldCertificate:
    node: str
    serial: str


class Rates:
    """A token bucket per address; the addresses are bounded, the ones seen longest ago go first."""

    MAX_ADDRESSES = 4096

    def __init__(self, per_s: float, burst: float, clock: Clock) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (level, at_s)

    def empty(self, address: str) -> bool:
        """Whether ``take`` would refuse."""
        return self._level(address) < 1.0

    def take(self, address: str) -> bool:
        """Use one; False when there is none."""
        level = self._level(address)
        self._buckets[address] = (max(level - 1.0, 0.0), self._clock.now_s())
        self._buckets.move_to_end(address)
        if len(self._buckets) > self.MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return level >= 1.0

    def _level(self, address: str) -> float:
        level, at_s = self._buckets.get(address, (self._burst, self._clock.now_s()))
        return float(min(self._burst, level + (self._clock.now_s() - at_s) * self._per_s))


def renewal_message(nonce: str, csr: str) -> bytes:
    """Return what the old key signs."""
    return RENEW_PREFIX + nonce.encode() + b"\0" + csr.encode()


def refusal(status: int, message: str, code: str = "BadRequest", *, retry_after_s: int | None = None) -> Response:
    """Return an error answer: ``{"code", "message"}``."""
    headers = [("Retry-After", str(retry_after_s))] if retry_after_s is not None else []
    return Response(status, headers=headers, body=msgspec.json.encode({"code": code, "message": message}))


def _check_name(connection: Connection, node: str, key_hash: str, *, reserved: bool) -> None:
    keys, revoked = revocation.keys_of(connection, node)
    if key_hash in revoked:
        raise JoinRefused(403, "revoked", f"this key of node {node} was revoked: `edgecore reset`, then join again")
    if keys and key_hash not in keys and not reserved:
        raise JoinRefused(
            409,
            "name_taken",
            f"node {node} has joined before with another key; to replace it, use a token made with"
            f" `cloudcore token create --node {node}`",
        )


def _node_of(certificate: x509.Certificate) -> str:
    names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if len(names) != 1 or groups != [certs.NODE_GROUP] or not str(names[0]).startswith(certs.NODE_USER):
        return ""
    return str(names[0]).removeprefix(certs.NODE_USER)


def _decode(request: Request, kind: type[T]) -> T:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise JoinRefused(415, "media_type", "Content-Type: must be application/json")
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"the body cannot be read: {error}") from error


def _json(document: Any) -> Response:
    return Response(200, body=msgspec.json.encode(document))

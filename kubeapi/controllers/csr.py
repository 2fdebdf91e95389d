"""Certificate requests: who asked is written into them, and the approved ones are signed.

Reads CertificateSigningRequests; writes their ``spec`` identity (as a Hook) and ``status.certificate``. The key of the CA
stays with whoever gives ``sign``.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kubeapi.access import INTERNAL, User
from kubeapi.admission import Attempt
from kubeapi.errors import INVALID, ApiError, Cause, invalid
from kubeapi.kinds import CERTIFICATE_SIGNING_REQUEST as CSR
from kubeapi.objects import Objects, WriteOptions
from proto.kit.clock import rfc3339
from proto.kit.errors import Retryable, Terminal
from proto.kit.log import Logger

log = Logger("csr")

CLIENT, SERVING = "kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving"
SIGNERS = (CLIENT, SERVING)
DECISIONS = ("Approved", "Denied")  # written through /approval alone
DEFAULT_LIFE = timedelta(days=365)
MIN_LIFE_S = 600
RETRY_EVERY_S = 5.0
MAX_REQUEST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """An approved request. ``request`` is the CSR as PEM; ``lifetime`` is what was asked for, to be capped by the CA."""

    request: bytes
    signer: str
    username: str
    groups: tuple[str, ...]
    usages: tuple[str, ...]
    lifetime: timedelta


# Returns the certificate chain as PEM. Raises Terminal when this request will never be signed (its sentence is shown),
# Retryable when it may be later.
Sign = Callable[[SigningRequest], bytes | Awaitable[bytes]]


def guard(attempt: Attempt) -> dict[str, Any] | None:
    """A Hook: a request says who asked, whatever its body claims; each door writes its own part of the status alone.

    Raises 422 for what cannot be a request.
    """
    obj, old = attempt.obj, attempt.old
    if attempt.res != CSR or obj is None:
        return None
    if attempt.verb == "CREATE":
        return _identified(attempt, obj)
    if old is None or not attempt.subresource:
        return None
    held, sent = old.get("status") or {}, obj.get("status") or {}
    if attempt.subresource == "approval":
        return {**obj, "status": {**held, "conditions": sent.get("conditions") or []}}
    decided = [c for c in held.get("conditions") or () if c.get("type") in DECISIONS]
    others = [c for c in sent.get("conditions") or () if c.get("type") not in DECISIONS]
    return {**obj, "status": {**sent, "conditions": decided + others}}


def _identified(attempt: Attempt, obj: dict[str, Any]) -> dict[str, Any] | None:
    spec = obj.get("spec") or {}
    _request_pem(attempt.name, spec)
    if not isinstance(attempt.user, User):
        return None
    asked = {key: spec[key] for key in spec if key not in ("username", "uid", "groups", "extra")}
    return {**obj, "spec": {**asked, **attempt.user.body()}}


def _request_pem(name: str, spec: dict[str, Any]) -> bytes:
    text = str(spec.get("request", ""))
    try:
        pem = base64.b64decode(text[:MAX_REQUEST_BYTES], validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    if not pem.lstrip().startswith(b"-----BEGIN CERTIFICATE REQUEST-----") or len(text) > MAX_REQUEST_BYTES:
        text = "Invalid value: must be the base64 of one PEM block of type CERTIFICATE REQUEST"
        raise invalid(CSR, name, [Cause(INVALID, "spec.request", text)])
    return pem


class SigningController:
    """Signs approved requests of the two signers; runs until cancelled."""

    def __init__(self, objects: Objects, sign: Sign) -> None:
        self._objects, self._sign = objects, sign

    async def run(self) -> None:
        """Sign what is approved now and whatever is approved later. A request that fails for now is tried again."""
        store = self._objects.store
        while True:
            waiting: set[str] = set()
            try:
                async with aclosing(store.watch(CSR, None, None)) as watcher:
                    while True:
                        events = await watcher.batch(RETRY_EVERY_S if waiting else None)
                        names = {event.stored.name for event in events} | waiting
                        waiting = {name for name in sorted(names) if not await self._settle(name)}
            except ApiError as error:  # fell too far behind: begin again with everything
                log.warning("watch of certificate requests ended", reason=error.reason)

    async def _settle(self, name: str) -> bool:
        """Sign ``name`` if it is due; False when it must be tried again."""
        found = self._objects.store.get(CSR, "", name)
        if found is None or not due(found):
            return True
        try:
            certificate = self._sign(_approved(found))
            pem = certificate if isinstance(certificate, bytes) else await certificate
            await self._write(found, {"certificate": base64.b64encode(pem).decode()})
        except Retryable as error:
            log.warning("certificate not signed yet", request=name, reason=error)
            return False
        except ApiError as error:
            return error.status != 409  # changed meanwhile: look again
        except Terminal as error:
            await self._fail(found, str(error))
        else:
            log.info(
                "certificate signed",
                request=name,
                user=found["spec"].get("username"),
                signer=found["spec"]["signerName"],
            )
        return True

    async def _fail(self, found: dict[str, Any], message: str) -> None:
        now = rfc3339(self._objects.clock.wall())
        condition = {
            "type": "Failed",
            "status": "True",
            "reason": "SignerRefused",
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        log.warning("certificate refused", request=found["metadata"]["name"], reason=message)
        await self._write(found, {"conditions": [*found["status"]["conditions"], condition]})

    async def _write(self, found: dict[str, Any], status: dict[str, Any]) -> None:
        body = {**found, "status": {**(found.get("status") or {}), **status}}
        opts = WriteOptions(field_manager="csr-signer", user=INTERNAL)
        await self._objects.update(CSR, "", found["metadata"]["name"], body, opts, "status")


def due(request: dict[str, Any]) -> bool:
    """Whether a request is approved, ours to sign, and not yet signed, denied or failed."""
    status = request.get("status") or {}
    kinds = {c.get("type") for c in status.get("conditions") or () if c.get("status", "True") == "True"}
    ours = (request.get("spec") or {}).get("signerName") in SIGNERS
    return ours and "Approved" in kinds and not kinds & {"Denied", "Failed"} and not status.get("certificate")


def _approved(found: dict[str, Any]) -> SigningRequest:
    spec = found["spec"]
    asked = spec.get("expirationSeconds")
    lifetime = timedelta(seconds=max(MIN_LIFE_S, asked)) if isinstance(asked, int) else DEFAULT_LIFE
    return SigningRequest(
        _request_pem(found["metadata"]["name"], spec),
        spec["signerName"],
        str(spec.get("username", "")),
        tuple(spec.get("groups") or ()),
        tuple(spec.get("usages") or ()),
        lifetime,
    )

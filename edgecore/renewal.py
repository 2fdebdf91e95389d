"""Renew the node's certificate while the daemon runs, at a fixed random moment between 70 and 90 % of its life.

The request is signed by the old key, so it also works after the old certificate has ended (for as long as the cloud
allows). The new pair is on disk when it counts; connections take it at their next handshake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from edgecore import enrol
from edgecore.data_dir import DataDir
from edgecore.enrol import CloudRefused, Grant
from proto.kit import tls
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import MalformedMessage, SkerryError, Terminal
from proto.kit.httpclient import HttpClient
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.x509 import Facts, read_file

LOOK_EVERY_S = 600.0  # the wall clock may jump: never sleep through a whole life
RETRY_BASE_S, RETRY_CAP_S = 5.0, 1800.0
REFUSED_RETRY_S = 3600.0  # a refusal changes only when a person acts

log = Logger("renewal")


@dataclass(frozen=True, slots=True)
class RenewalStatus:
    """For ``edgecore status``. ``problem`` is "" while all is well."""

    not_after: datetime | None
    renew_at: datetime | None
    problem: str


class _Nonce(msgspec.Struct):
    nonce: str


class Renewal:
    """Keeps the certificate of one data directory fresh. ``url`` is the join endpoint."""

    def __init__(
        self,
        directory: DataDir,
        node: str,
        url: str,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        on_renewed: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory, self._node, self._url = directory, node, url
        self._clock, self._on_renewed = clock, on_renewed
        self._backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S, rng)
        self._facts: Facts | None = None
        self._problem = ""
        self._renewals = metrics.counter("skerry_edge_renewals_total", "Certificate renewals, by result", ("result",))
        metrics.gauge(
            "skerry_edge_certificate_left_seconds", "Seconds until the node certificate ends", source=self._left_s
        )

    def status(self) -> RenewalStatus:
        """Return when the certificate ends, when it is renewed, and what is wrong."""
        if self._facts is None:
            return RenewalStatus(None, None, self._problem)
        return RenewalStatus(self._facts.not_after, self._facts.renew_at(), self._problem)

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled; without the cloud nothing but the log and a gauge change."""
        while True:
            await self._clock.sleep(await self._turn())

    async def _turn(self) -> float:
        """Renew if it is due; return the seconds until the next look."""
        try:
            enrol.finish_swap(self._directory)
            self._facts = read_file(self._directory.certificate)
            left_s = (self._facts.renew_at() - self._clock.wall()).total_seconds()
            if left_s > 0:
                return min(left_s + 0.001, LOOK_EVERY_S)
            fresh = await self.renew()
        except (SkerryError, OSError) as error:
            return self._failed(error)
        if fresh.renew_at() <= self._clock.wall():  # the CA itself is at its end, or a clock is wrong
            return self._backoff.next_s()
        self._backoff.reset()
        return 0.0

    async def renew(self) -> Facts:
        """Renew now and return the new certificate's facts. Raises CloudRefused, CloudBusy, HttpUnreachable, OSError."""
        directory = self._directory
        ca = directory.ca.read_bytes()
        client = HttpClient(self._url, tls=lambda: tls.client_context(ca=ca))
        try:
            nonce = (await enrol.call(client, "GET", "/nonce", None, _Nonce)).nonce
            fresh = enrol.next_key(directory)
            printed = await enrol.run_keys("renew", str(directory.key), str(fresh), self._node, nonce)
            proof = msgspec.json.decode(printed, type=dict[str, str])
            body = {"certificate": directory.certificate.read_text("ascii"), "nonce": nonce, **proof}
            grant = await enrol.call(client, "POST", "/renew", body, Grant)
        except SkerryError as error:
            raise enrol.explain(error, self._url) from error
        finally:
            await client.close()
        facts = enrol.check_grant(grant, self._node)
        certificate = grant.certificate.encode()
        tls.client_context(certificate, fresh, ca)
        enrol.swap(directory, certificate)
        self._facts = facts
        if self._problem:
            self._problem = ""
        self._renewals.inc("renewed")
        log.info("certificate renewed", until=facts.not_after.isoformat())
        self._on_renewed()
        return facts

    def _failed(self, error: SkerryError | OSError) -> float:
        text = str(error)
        self._renewals.inc("refused" if isinstance(error, Terminal) else "failed")
        if text != self._problem:  # once down; the success is logged anyway
            log.warning("certificate not renewed", error=text)
        self._problem = text
        if isinstance(error, CloudRefused | MalformedMessage):
            return REFUSED_RETRY_S
        return self._backoff.next_s()

    def _left_s(self) -> float:
        if self._facts is None:
            return 0.0
        return (self._facts.not_after - self._clock.wall()).total_seconds()

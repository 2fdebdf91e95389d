"""Open the broker that devices speak to: our own on this gateway, or another one by URL."""

import ssl
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from edgecore import access
from edgecore.devices.mqtt import DeviceBroker as Devices
from edgecore.devices.mqtt import EmbeddedBroker, ExternalBroker
from edgecore.settings import DeviceBroker
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.errors import SkerryError, UsageError
from proto.kit.metrics import Metrics
from proto.kit.tls import Reloading, client_context, server_context
from proto.link.client import PahoBroker
from proto.mqtt.broker import SCHEMA, MqttBroker

__all__ = ["SCHEMA", "Opened", "embedded", "external", "open_broker"]


class Opened:
    """``devices`` is the port for the controller. ``listen`` comes after it runs: nothing is acknowledged unheard."""

    def __init__(self, devices: Devices, address: str, broker: MqttBroker | None = None) -> None:
        self.devices = devices
        self.address = address
        self.broker = broker
        self.reloading: Reloading | None = None  # of the listener's certificate; the caller runs it

    async def listen(self, settings: DeviceBroker, clock: Clock) -> None:
        """Let clients in. Raises SkerryError naming address and setting."""
        if self.broker is None:
            return
        context = _server_context(settings)
        try:
            port = await self.broker.listen(settings.host, settings.port, context)
        except OSError as error:
            raise SkerryError(
                f"the device broker cannot listen on {settings.host}:{settings.port} ({error.strerror or error});"
                " stop the other broker, set device_broker.port, or use that broker with device_broker.url"
            ) from error
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.address = f"{'mqtts' if context else 'mqtt'}://{host}:{port}"
        if context is not None:
            self.reloading = Reloading(context, Path(settings.tls_cert), Path(settings.tls_key), clock=clock)

    async def close(self) -> None:
        if self.broker is not None:
            await self.broker.close()


def open_broker(settings: DeviceBroker, node: str, db: Database, *, clock: Clock, rng: Rng, metrics: Metrics) -> Opened:
    """Make the broker that the settings name; nobody is let in yet. Raises UsageError."""
    if settings.url:
        return external(settings, node, clock=clock, rng=rng, metrics=metrics)
    return embedded(settings, db, clock=clock, metrics=metrics)


def embedded(settings: DeviceBroker, db: Database, *, clock: Clock, metrics: Metrics) -> Opened:
    allowed = access.load(settings)
    broker = MqttBroker(
        settings.limits, db=db, authenticate=allowed.authenticate, acl=allowed.allows, clock=clock, metrics=metrics
    )
    return Opened(EmbeddedBroker(broker, metrics=metrics), "", broker)


def external(settings: DeviceBroker, node: str, *, clock: Clock, rng: Rng, metrics: Metrics) -> Opened:
    broker = PahoBroker(
        _with_credentials(settings),
        clock=clock,
        tls=(lambda: _client_context(settings)) if settings.url.startswith("mqtts:") else None,
        max_packet_bytes=settings.limits.max_packet_bytes,
        version=settings.mqtt_version,
        session_s=settings.session_s,
    )
    devices = ExternalBroker(broker, f"skerry-{node}", clock=clock, rng=rng, metrics=metrics)
    return Opened(devices, settings.url)


def _server_context(settings: DeviceBroker) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    ca = Path(settings.tls_ca) if settings.tls_ca else None
    only_certificates = ca is not None and not settings.password_file
    return server_context(Path(settings.tls_cert), Path(settings.tls_key), ca, require_client=only_certificates)


def _with_credentials(settings: DeviceBroker) -> str:
    if not settings.username:
        return settings.url
    parts = urlsplit(settings.url)
    secret = ""
    if settings.secret_file:
        try:
            secret = ":" + quote(Path(settings.secret_file).read_text().strip(), safe="")
        except OSError as error:
            raise UsageError(f"device_broker.secret_file {settings.secret_file}: {error.strerror}") from error
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(settings.username, safe='')}{secret}@{host}"))


def _client_context(settings: DeviceBroker) -> ssl.SSLContext:
    ca = Path(settings.tls_ca) if settings.tls_ca else None
    if not settings.tls_cert:
        return client_context(ca=ca, server_hostname=None)
    return client_context(Path(settings.tls_cert), Path(settings.tls_key), ca, server_hostname=None)

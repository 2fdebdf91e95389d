"""Every port, path and limit of the edge daemon. ``edgecore run --print-settings`` shows the ones in force.

``edge.yaml`` in the data directory is written by ``edgecore join`` and read by default; ``--config`` comes over it.
"""

import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from edgecore.localapi.settings import LocalApiSettings
from edgecore.pods.settings import PodsSettings
from proto.kit import settings as kit
from proto.kit.errors import UsageError
from proto.kit.tls import SERVER_NAME
from proto.link.settings import LinkSettings
from proto.mqtt.limits import BrokerSettings
from proto.names import is_node_name

FILE_NAME = "edge.yaml"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FOREIGN = (  # cloudcore's alone: both daemons may be started from one shell
    *("admin.", "broker.", "history.", "join.", "kubelet.", "nodes."),
    *(
        "api.kubeconfig",
        "api.names",
        "api.controllers",
        "api.service_range",
        "api.idle_timeout_s",
        "api.status_writers",
    ),
    *("api.history_rows", "api.history_bytes", "api.max_body_bytes", "api.max_connections"),
    *("api.audit", "api.audit_path", "api.audit_bytes", "api.audit_files", "api.audit_reads"),
)


class Cloud(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the cloud is; written by join."""

    broker: Annotated[str, Meta(description="MQTT broker of the cloud, mqtts://HOST:8883")] = ""
    join: Annotated[str, Meta(description="join and renewal endpoint of cloudcore, https://HOST:10002")] = ""
    mqtt_version: Annotated[int, Meta(ge=4, le=5, description="MQTT protocol spoken to the broker: 4 (3.1.1) or 5")] = 5
    server_name: Annotated[str, Meta(description="name that the cloud's certificates must carry")] = SERVER_NAME


class DeviceBrokerLimits(BrokerSettings, frozen=True, kw_only=True):
    """A gateway is smaller than a cloud."""

    max_packet_bytes: Annotated[int, Meta(ge=1024, description="largest packet accepted")] = 1 << 20
    max_handshakes: Annotated[
        int, Meta(ge=1, description="TLS handshakes at once, some 50 KB each; more are cut and counted")
    ] = 256
    max_connections: Annotated[int, Meta(ge=1, description="open connections")] = 4000
    queue_bytes: Annotated[
        int, Meta(ge=1024, description="bytes waiting for one session; newer ones are dropped and counted")
    ] = 4 << 20
    total_queue_bytes: Annotated[int, Meta(ge=1024, description="bytes waiting for all sessions together")] = 64 << 20


class DeviceBroker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MQTT broker that devices and apps on the gateway speak to."""

    url: Annotated[str, Meta(description="external broker, mqtt://HOST:PORT or mqtts://…; empty: the embedded one")] = (
        ""
    )
    host: Annotated[str, Meta(description="address of the embedded broker; anonymous on loopback only")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the embedded broker; 0: any free")] = 1883
    tls_cert: Annotated[str, Meta(description="PEM certificate of the embedded broker; empty: plain TCP")] = ""
    tls_key: Annotated[str, Meta(description="PEM key that belongs to tls_cert")] = ""
    tls_ca: Annotated[str, Meta(description="PEM CA that device certificates must come from; empty: none")] = ""
    password_file: Annotated[
        str, Meta(description="users of the embedded broker, written by mosquitto_passwd; empty: none")
    ] = ""
    acl_file: Annotated[str, Meta(description="Mosquitto-style ACL file for password users; empty: own topics")] = ""
    mqtt_version: Annotated[
        int, Meta(ge=4, le=5, description="MQTT protocol spoken to the external broker: 4 (3.1.1) or 5")
    ] = 5
    session_s: Annotated[
        int,
        Meta(ge=0, le=(1 << 32) - 1, description="seconds the external broker keeps reports for us while we are away"),
    ] = 86_400
    username: Annotated[str, Meta(description="user name at the external broker; empty: none")] = ""
    secret_file: Annotated[str, Meta(description="file with the password at the external broker")] = ""
    limits: DeviceBrokerLimits = DeviceBrokerLimits()


class Devices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Device twins and the mappers inside the daemon."""

    host_mapper: Annotated[bool, Meta(description="let Devices with protocol `host` read this gateway")] = True
    simulated_mapper: Annotated[bool, Meta(description="let Devices with protocol `simulated` run")] = True
    stale_after_s: Annotated[float, Meta(gt=0, description="seconds without a report after which a twin is Stale")] = (
        300.0
    )


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Health, metrics and the status that the commands read."""

    host: Annotated[str, Meta(description="address of health and metrics")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of health and metrics; 0: any free")] = 10351


class NodeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this gateway shows itself as a Node."""

    labels: Annotated[list[str], Meta(description="labels of the Node, each key=value")] = []
    address: Annotated[str, Meta(description="InternalIP to report; empty: the one that routes to the cloud")] = ""
    status_every_s: Annotated[float, Meta(gt=0, description="seconds between two looks at this machine")] = 10.0
    lease_every_s: Annotated[float, Meta(gt=0, description="seconds between two lease messages")] = 60.0
    disk_low_bytes: Annotated[int, Meta(ge=0, description="bytes free below which DiskPressure is True")] = 256 << 20
    memory_low_bytes: Annotated[int, Meta(ge=0, description="bytes free below which MemoryPressure is True")] = 64 << 20


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of edgecore."""

    node: Annotated[str, Meta(description="name of this node; written by join")] = ""
    cloud: Cloud = Cloud()
    link: LinkSettings = LinkSettings()
    device_broker: DeviceBroker = DeviceBroker()
    devices: Devices = Devices()
    api: Api = Api()
    local_api: LocalApiSettings = LocalApiSettings()
    node_options: NodeOptions = NodeOptions()
    pods: PodsSettings = PodsSettings()
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="least level logged")] = "info"


def default_data_dir() -> Path:
    """/var/lib/skerry/edge for root, else ~/.local/share/skerry/edge."""
    if os.geteuid() == 0:
        return Path("/var/lib/skerry/edge")
    return Path.home() / ".local" / "share" / "skerry" / "edge"


def load(
    data_dir: Path, *, config: Path | None = None, sets: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings in force; raises UsageError with the key and what to write instead."""
    joined = data_dir / FILE_NAME
    files = [file for file in (joined if joined.exists() else None, config) if file is not None]
    found = kit.load(Settings, files=files, env=env, sets=sets, program="edgecore", foreign=FOREIGN)
    _check(found)
    return found


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine alone."""
    return host in LOOPBACK or host.startswith("127.")


def _check(settings: Settings) -> None:
    if settings.node and not is_node_name(settings.node):
        raise UsageError(f"settings: node {settings.node!r} is no DNS-1123 label (a-z, 0-9, '-', at most 52)")
    for text in settings.node_options.labels:
        if "=" not in text:
            raise UsageError(f"settings: node_options.labels: {text!r} is not key=value")
    _check_url("cloud.broker", settings.cloud.broker, ("mqtts", "mqtt"))
    _check_url("cloud.join", settings.cloud.join, ("https",))
    _check_url("device_broker.url", settings.device_broker.url, ("mqtt", "mqtts"))
    _check_device_broker(settings.device_broker)
    _check_local_api(settings.local_api)


def _check_url(key: str, url: str, schemes: tuple[str, ...]) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        valid = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        wanted = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
        raise UsageError(f"settings: {key} {url!r}: write {wanted}")


def _check_device_broker(broker: DeviceBroker) -> None:
    if bool(broker.tls_cert) != bool(broker.tls_key):
        raise UsageError("settings: device_broker.tls_cert and device_broker.tls_key go together")
    guarded = bool(broker.tls_ca) or bool(broker.password_file)
    if not broker.url and not is_loopback(broker.host) and not guarded:
        raise UsageError(
            f"settings: device_broker.host {broker.host} is reachable from outside: set device_broker.password_file,"
            " or device_broker.tls_cert, tls_key and tls_ca (anonymous access is for 127.0.0.1 only)"
        )


def _check_local_api(local: LocalApiSettings) -> None:
    for key, text in (("host", local.host), ("pod_address", local.pod_address)):
        try:
            ip_address(text or "127.0.0.1")
        except ValueError as error:
            raise UsageError(f"settings: local_api.{key} {text!r} is no IP address") from error

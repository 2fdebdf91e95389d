"""Every port, path and limit of the cloud daemon. ``cloudcore serve --print-settings`` shows the ones in force.

``cloud.yaml`` in the data directory is read when it exists; ``--config`` comes over it.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from proto.kit import settings as kit
from proto.kit.errors import UsageError
from proto.link.settings import LinkSettings
from proto.mqtt.limits import BrokerSettings

FILE_NAME = "cloud.yaml"
FOREIGN = ("node", "cloud.", "device_broker.", "devices.", "local_api.", "node_options.", "pods.")  # edgecore's alone
FRAME_ROOM_BYTES = 1024  # topic and properties around the largest frame


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Kubernetes API: the embedded one, or any other by kubeconfig."""

    kubeconfig: Annotated[
        str, Meta(description="kubeconfig of another API server; `in-cluster` in a pod; empty: the embedded one")
    ] = ""
    host: Annotated[str, Meta(description="address of the embedded API")] = "0.0.0.0"  # noqa: S104  mutual TLS and RBAC
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the embedded API; 0: any free")] = 6443
    names: Annotated[
        list[str], Meta(description="more host names and addresses for the server certificates of API, broker and join")
    ] = []
    controllers: Annotated[
        bool, Meta(description="false: the embedded API places and makes no pods; another control plane does that")
    ] = True
    service_range: Annotated[str, Meta(description="addresses of Services in the embedded API, as a CIDR")] = (
        "10.96.0.0/16"
    )
    history_rows: Annotated[int, Meta(ge=100, description="old versions kept for watches that come back")] = 10_000
    history_bytes: Annotated[int, Meta(ge=1 << 20, description="bytes of those old versions")] = 32 << 20
    max_body_bytes: Annotated[int, Meta(ge=1024, description="largest request body of the embedded API")] = 3 << 20
    max_connections: Annotated[int, Meta(ge=10, description="open connections of the embedded API")] = 4096
    audit: Annotated[
        bool,
        Meta(
            description="whether the embedded API notes who did what: writes, ways into pods, reads of Secrets, refusals"
        ),
    ] = True
    audit_path: Annotated[str, Meta(description="file of those notes; empty: audit.log in the data directory")] = ""
    audit_bytes: Annotated[int, Meta(ge=1 << 16, description="size at which the audit log is rotated")] = 16 << 20
    audit_files: Annotated[int, Meta(ge=1, le=1000, description="audit logs kept, the current one among them")] = 5
    audit_reads: Annotated[bool, Meta(description="whether plain reads are noted, too: most of the traffic")] = False
    idle_timeout_s: Annotated[
        float, Meta(gt=1, description="seconds of silence after which a watch is opened again")
    ] = 90.0
    status_writers: Annotated[int, Meta(ge=1, le=256, description="status writes in flight at the same time")] = 16


class EdgesBrokerLimits(BrokerSettings, frozen=True, kw_only=True):
    """The largest frame, and its topic, must pass. A class: a setting beside this one must not put it back."""

    max_packet_bytes: Annotated[int, Meta(ge=64, le=268_435_460, description="largest packet accepted")] = (
        256 << 10
    ) + FRAME_ROOM_BYTES


class Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MQTT broker that edges connect to: the embedded one, or any other by URL."""

    url: Annotated[
        str, Meta(description="mqtts://HOST:8883 or mqtt://… of another broker; empty: the embedded one")
    ] = ""
    ca: Annotated[str, Meta(description="PEM CA of that broker; empty: our own CA")] = ""
    server_name: Annotated[str, Meta(description="name in that broker's certificate; empty: cloudcore.skerry")] = ""
    mqtt_version: Annotated[int, Meta(description="MQTT protocol spoken to that broker: 4 (3.1.1) or 5")] = 5
    host: Annotated[str, Meta(description="address of the embedded broker")] = "0.0.0.0"  # noqa: S104  mutual TLS
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the embedded broker; 0: any free")] = 8883
    limits: EdgesBrokerLimits = EdgesBrokerLimits()


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The endpoint where new nodes get their certificate."""

    host: Annotated[str, Meta(description="address of the join endpoint")] = "0.0.0.0"  # noqa: S104  tokens are asked for
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the join endpoint; 0: any free")] = 10002
    node_days: Annotated[float, Meta(gt=0, le=3650, description="life of a node's certificate, days")] = 90.0
    grace_days: Annotated[
        float, Meta(ge=0, description="days after its end in which a node's certificate can still be renewed")
    ] = 365.0
    calls_per_s: Annotated[float, Meta(gt=0, description="requests per second of one address")] = 50.0
    refusals_per_s: Annotated[
        float, Meta(gt=0, description="refused requests per second of one address, after the burst")
    ] = 0.2
    refusals_burst: Annotated[int, Meta(ge=1, description="refused requests of one address at once")] = 20


class Admin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Health, metrics and what `cloudcore status` reads; plain HTTP, so on loopback."""

    host: Annotated[str, Meta(description="address of health and metrics")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of health and metrics; 0: any free")] = 9091


class Kubelet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the API server finds logs, exec, port-forward and figures of all edge nodes."""

    host: Annotated[str, Meta(description="address of the nodes' kubelet API")] = "0.0.0.0"  # noqa: S104  TLS and rights
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the nodes' kubelet API; 0: any free")] = 10003
    advertise: Annotated[
        str,
        Meta(
            description="host that the API server dials, `{node}` in it is the node's name;"
            " empty: the embedded API asks on this machine, another one at our address towards it"
        ),
    ] = ""
    address_type: Annotated[
        Literal["auto", "Hostname", "InternalDNS", "InternalIP"],
        Meta(
            description="Node address that says so; auto: InternalDNS for the embedded API, Hostname for another,"
            " there the only one shown, whichever type the API server prefers"
        ),
    ] = "auto"
    client_ca: Annotated[
        str, Meta(description="PEM CA of the API server's client certificate; empty: our own CA, as the embedded API's")
    ] = ""


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How soon silence is shown, and how much of one node may wait here."""

    away_after_s: Annotated[
        float, Meta(ge=0, description="seconds without a session until devices are Stale and the Node is NotReady")
    ] = 4.0
    settle_s: Annotated[
        float, Meta(ge=0, description="seconds after start in which nodes may say hello before they count as away")
    ] = 15.0
    lease_duration_s: Annotated[int, Meta(ge=1, description="leaseDurationSeconds of the nodes' Leases")] = 100
    lease_renew_s: Annotated[
        float,
        Meta(
            description="seconds between renewals of a connected node's Lease; 0: only at the edge's message each minute"
        ),
    ] = 0.0
    # Half of it is more than what may wait for a right: waiting for that alone must not stop a node.
    backlog_rows: Annotated[
        int,
        Meta(
            ge=5_000,
            description="messages of one node that may wait to be carried out in the API; then it keeps the next ones until half are done",
        ),
    ] = 20_000
    backlog_bytes: Annotated[int, Meta(ge=8 << 20, description="bytes of those messages")] = 64 << 20


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What devices reported, in SQL."""

    database: Annotated[
        str,
        Meta(description="postgresql+psycopg://USER@HOST/DB or sqlite:///FILE; empty: cloud.db in the data directory"),
    ] = ""
    keep_days: Annotated[float, Meta(ge=0, description="days that reports are kept; 0: for ever")] = 30.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of cloudcore."""

    api: Api = Api()
    broker: Broker = Broker()
    join: Join = Join()
    admin: Admin = Admin()
    kubelet: Kubelet = Kubelet()
    nodes: Nodes = Nodes()
    history: History = History()
    link: LinkSettings = LinkSettings()
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="least level logged")] = "info"

    @property
    def embedded_api(self) -> bool:
        return not self.api.kubeconfig

    @property
    def embedded_broker(self) -> bool:
        return not self.broker.url

    def database_url(self, data_dir: Path) -> str:
        """Return where history and durable messages are kept."""
        return self.history.database or f"sqlite:///{data_dir / 'cloud.db'}"


def default_data_dir() -> Path:
    """/var/lib/skerry/cloud for root, else ~/.local/share/skerry/cloud."""
    if os.geteuid() == 0:
        return Path("/var/lib/skerry/cloud")
    return Path.home() / ".local" / "share" / "skerry" / "cloud"


def load(
    data_dir: Path, *, config: Path | None = None, sets: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings in force; raises UsageError with the key and what to write instead."""
    own = data_dir / FILE_NAME
    files = [file for file in (own if own.exists() else None, config) if file is not None]
    found = kit.load(Settings, files=files, env=env, sets=sets, program="cloudcore", foreign=FOREIGN)
    _check(found)
    return found


def _check(settings: Settings) -> None:
    url = settings.broker.url
    if url:
        try:
            parts = urlsplit(url)
            valid = (
                parts.scheme in {"mqtt", "mqtts"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            valid = False
        if not valid:
            raise UsageError(f"settings: broker.url {url!r}: write mqtts://HOST:8883 or mqtt://HOST:1883")
    if settings.broker.limits.max_packet_bytes < settings.link.frame_bytes + FRAME_ROOM_BYTES:
        raise UsageError(
            f"settings: broker.limits.max_packet_bytes must be link.frame_bytes + {FRAME_ROOM_BYTES} at least"
        )
    if settings.broker.mqtt_version not in {4, 5}:
        raise UsageError(f"settings: broker.mqtt_version {settings.broker.mqtt_version}: write 4 (MQTT 3.1.1) or 5")
    database = settings.history.database
    if database and not database.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
        raise UsageError(
            "settings: history.database: write postgresql+psycopg://USER@HOST/DB or sqlite:///FILE, "
            f"not {database.split(':', 1)[0]}:…"
        )

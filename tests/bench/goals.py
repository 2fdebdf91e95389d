"""What is measured and what it should be: data. A measure without a limit is printed, not judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Step = str | Mapping[str, Any]  # a key, or what the wanted row of a list says
Path = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure in a bench's result, and its limit."""

    bench: str
    measure: str
    path: Path
    unit: str = ""
    op: Literal[">=", "<=", ""] = ""
    limit: float = 0.0


def row(publishers: int, broker: str, field: str) -> Path:
    return ("rows", {"publishers": publishers, "broker": broker}, field)


GOALS = (
    Goal("reports", "reports, device to cloud", ("open_loop", "reports_per_s"), "/s", ">=", 2000),
    Goal("reports", "  oldest state at the watch", ("open_loop", "watch_worst_s"), "s", "<=", 1),
    Goal("reports", "  missing in the history", ("history_count", "missing"), "", "<=", 0),
    Goal("reports", "  refused", ("refused",), "", "<=", 0),
    Goal("reports", "closed loop", ("closed_loop", "reports_per_s"), "/s", ">=", 400),
    Goal("reports", "one report at a time, p50", ("one_at_a_time", "p50_ms"), "ms", "<=", 10),
    Goal("reports", "  p99", ("one_at_a_time", "p99_ms"), "ms"),
    Goal("reports", "desired value to MQTT delta, p50", ("desired_to_delta", "p50_ms"), "ms", "<=", 10),
    Goal("reports", "  p99", ("desired_to_delta", "p99_ms"), "ms"),
    Goal("broker", "broker, 1 publisher, of Mosquitto", row(1, "skerry", "ratio"), "", ">=", 0.2),
    Goal("broker", "  messages", row(1, "skerry", "per_s"), "/s"),
    Goal("broker", "  amqtt, of Mosquitto", row(1, "amqtt", "ratio")),
    Goal("broker", "broker, 50 publishers, of Mosquitto", row(50, "skerry", "ratio"), "", ">=", 0.5),
    Goal("broker", "  messages", row(50, "skerry", "per_s"), "/s"),
    Goal("broker", "  amqtt, of Mosquitto", row(50, "amqtt", "ratio")),
    Goal("idle", "idle connection, plain", ("plain_kb",), "KB", "<=", 10),
    Goal("idle", "idle connection, TLS", ("tls_kb",), "KB", "<=", 60),
    Goal("footprint", "reconnect after the link returns, p50", ("reconnect", "p50_s"), "s", "<=", 2),
    Goal("footprint", "  p99", ("reconnect", "p99_s"), "s"),
    Goal("storm", "edges after a cloud restart", ("edges",)),
    Goal("storm", "  all synced", ("synced_s",), "s", "<=", 60),
    Goal("storm", "  cloud memory, of steady", ("ratio",), "x", "<=", 2),
    Goal("storm", "  cloud memory, steady", ("rss_steady_mb",), "MB"),
    Goal("drain", "offline reports, drained with the reconnect", ("drained_per_s",), "/s"),
    Goal("drain", "  missing in the history", ("history_count", "missing"), "", "<=", 0),
    Goal("footprint", "edgecore, idle", ("edgecore_idle_rss_mb",), "MB", "<=", 52),
    Goal("footprint", "edgecore, 1,000 devices", ("edgecore_1000_devices_rss_mb",), "MB", "<=", 90),
    Goal("footprint", "cloudcore, all embedded", ("cloudcore_rss_mb",), "MB", "<=", 120),
    Goal("footprint", "cloudcore, start to ready", ("cloudcore_start_s",), "s", "<=", 2),
    Goal("footprint", "edgecore, start to ready", ("edgecore_start_s",), "s", "<=", 2),
    Goal("footprint", "idle node, bytes up an hour", ("idle_traffic", "up_bytes_per_hour"), "B"),
    Goal("footprint", "idle node, bytes down an hour", ("idle_traffic", "down_bytes_per_hour"), "B"),
    Goal("streams", "twin beside 50 logs -f and 10 exec, p95 of idle's", ("ratio",), "x", "<=", 3),
    Goal("streams", "  logs, all together", ("logs_mib_per_s",), "MiB/s", ">=", 1),
    Goal("streams", "  streams that broke", ("broken",), "", "<=", 0),
    Goal("streams", "kubectl cp, to the container", ("copy", "up_mib_per_s"), "MiB/s"),
    Goal("streams", "  and back", ("copy", "down_mib_per_s"), "MiB/s"),
    Goal("streams", "  equal hashes", ("copy", "equal"), "", ">=", 1),
    Goal("pods", "pod, POST to Running, of the bare CRI calls", ("single", "ratio"), "x", "<=", 1.5),
    Goal("pods", "  p50", ("single", "p50_ms"), "ms"),
    Goal("pods", "50 pods at once, of the bare CRI calls", ("burst", "ratio"), "x", "<=", 1.3),
    Goal("pods", "  CPU of edgecore, a pod", ("burst", "cpu_ms_per_pod", "edgecore"), "ms"),
    Goal("pods", "  CPU of cloudcore, a pod", ("burst", "cpu_ms_per_pod", "cloudcore"), "ms"),
    Goal("pods_footprint", "edgecore, 20 pods", ("edgecore_rss_mb",), "MB", "<=", 66),
    Goal("pods_footprint", "  idle, of a core", ("idle", "cpu_percent"), "%", "<=", 1),
    Goal("pods_footprint", "  idle, IP bytes an hour", ("idle", "ip_kib_per_hour"), "KiB", "<=", 60),
    Goal("pods_footprint", "  start to ready", ("start_s",), "s", "<=", 2),
    Goal("pods_footprint", "cloudcore, 20 pods", ("rss_mb", "cloudcore"), "MB"),
    Goal("pods_footprint", "  200 pods", ("cloudcore_rss_mb_200",), "MB"),
    Goal("twin", "twin, CPU of a report, 100 together", ("100 together", "cpu_us_per_report"), "us"),
    Goal("twin", "  one at a time, p50", ("one at a time", "p50_ms"), "ms"),
)

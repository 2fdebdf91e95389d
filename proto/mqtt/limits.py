"""What one client may cost: settings with their reasons, token buckets, and counts per address."""

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_TRACKED = 10_000  # clients whose connection rate is remembered; the oldest is forgotten first


def _doc(text: str, least: float = 1, most: float | None = None) -> Meta:
    return Meta(description=text, ge=least, le=most)


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the broker. Sizes in bytes, times in seconds; 0 means no limit only where it says so."""

    max_packet_bytes: Annotated[int, _doc("largest packet accepted", least=64, most=268_435_460)] = 262_144
    max_connect_bytes: Annotated[int, _doc("largest CONNECT, and all that is kept before authentication")] = 16_384
    connect_timeout_s: Annotated[float, _doc("time for TLS and CONNECT together, seconds", least=0.01)] = 5.0
    max_connections: Annotated[int, _doc("open connections")] = 20_000
    max_handshakes: Annotated[int, _doc("TLS handshakes at once, some 50 KB each; more are cut and counted")] = 4096
    max_pending_per_address: Annotated[int, _doc("connections of one address that have not authenticated yet")] = 1000
    connects_burst: Annotated[int, _doc("CONNECTs of one client at once before it must slow down")] = 30
    connects_per_s: Annotated[float, _doc("CONNECTs per second of one client afterwards; 0 no limit", least=0)] = 1.0
    max_topic_bytes: Annotated[int, _doc("longest topic name or filter")] = 512
    max_topic_levels: Annotated[int, _doc("levels of a topic name or filter")] = 16
    max_subscriptions: Annotated[int, _doc("subscriptions of one client", least=0)] = 1000
    receive_maximum: Annotated[
        int, _doc("Receive Maximum told to MQTT 5 clients, which are closed beyond it; many ignore it", most=65_535)
    ] = 65_535
    max_unacknowledged: Annotated[
        int, _doc("QoS 1 and 2 messages of one client that wait for their commit, above which it is read slower")
    ] = 1024
    max_inflight: Annotated[int, _doc("unacknowledged QoS 1 and 2 messages sent to one client", most=65_535)] = 256
    topic_alias_maximum: Annotated[int, _doc("topic aliases of one client, each way", least=0, most=65_535)] = 32
    publishes_per_s: Annotated[
        float, _doc("messages per second of one client, above which it is read slower; 0 no limit", least=0)
    ] = 0.0
    publishes_burst: Annotated[int, _doc("messages at once above that rate")] = 1000
    keep_alive_max_s: Annotated[int, _doc("longest keep alive granted to an MQTT 5 client, seconds", most=65_535)] = (
        1800
    )
    session_expiry_max_s: Annotated[
        int, _doc("longest life of a session without a connection, seconds", least=0, most=4_294_967_294)
    ] = 2_592_000
    max_sessions: Annotated[int, _doc("sessions kept without a connection")] = 20_000
    queue_messages: Annotated[int, _doc("messages waiting for one session; newer ones are dropped and counted")] = (
        100_000
    )
    queue_bytes: Annotated[int, _doc("bytes waiting for one session; newer ones are dropped and counted")] = 16_777_216
    total_queue_bytes: Annotated[int, _doc("bytes waiting for all sessions together")] = 134_217_728
    out_buffer_bytes: Annotated[int, _doc("unsent bytes of one connection; beyond, QoS 0 is dropped and counted")] = (
        1_048_576
    )
    retained_messages: Annotated[int, _doc("retained messages", least=0)] = 100_000
    retained_bytes: Annotated[int, _doc("bytes of all retained messages", least=0)] = 67_108_864


class TokenBucket:
    """``rate_per_s`` tokens flow in, up to ``burst``."""

    __slots__ = ("at_s", "burst", "rate_per_s", "tokens")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self.tokens = burst
        self.at_s = now_s

    def take(self, count: float, now_s: float) -> float:
        """Take ``count`` tokens, into debt if need be; returns the seconds until the debt is paid (0: none)."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.rate_per_s) - count
        self.at_s = now_s
        return max(0.0, -self.tokens / self.rate_per_s)

    def try_take(self, now_s: float) -> bool:
        """Take one token if there is one."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class ConnectRates:
    """Slows down a client that connects again and again. It is never banned: a token comes back each second."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._buckets: dict[str, TokenBucket] = {}

    def allow(self, who: str, now_s: float) -> bool:
        if self._settings.connects_per_s <= 0:
            return True
        bucket = self._buckets.pop(who, None)
        if bucket is None:
            bucket = TokenBucket(self._settings.connects_per_s, self._settings.connects_burst, now_s)
            if len(self._buckets) >= MAX_TRACKED:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[who] = bucket
        return bucket.try_take(now_s)


class Pending:
    """Connections per address that have not authenticated yet."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def enter(self, address: str) -> bool:
        count = self._counts.get(address, 0)
        if count >= self._limit:
            return False
        self._counts[address] = count + 1
        return True

    def leave(self, address: str) -> None:
        count = self._counts.get(address, 0) - 1
        if count > 0:
            self._counts[address] = count
        else:
            self._counts.pop(address, None)


class Quota:
    """Bytes that wait for all sessions together."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

"""Any MQTT broker by URL through paho-mqtt, driven by the event loop, with manual acknowledgements.

The only file that knows paho. Connecting (DNS, TCP, TLS) happens in a thread, everything else on the loop's own. Reads go
through one bounded buffer, so neither a declared length nor a fast broker decides how much memory is used.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from proto.kit.clock import Clock
from proto.kit.errors import UsageError
from proto.kit.log import Logger
from proto.link.broker import ConnectionLost, Inbound, Refused, Unreachable, Will

PORTS = {"mqtt": 1883, "mqtts": 8883}
CONNECT_TIMEOUT_S = 10.0  # each of: address and TCP, TLS, CONNACK
READ_BYTES = 64 << 10
PACKETS_A_TURN = 200  # then the loop serves others
MISC_PERIOD_S = 1.0  # paho looks at its keep-alive this often
MAX_UNREAD = 2_000  # messages that wait for ``receive``; then nothing is read from the socket
RESUME_UNREAD = 500
MAX_INFLIGHT = 100  # QoS 1 publishes without PUBACK, unless the broker wants fewer
REFUSALS = {
    "Bad user name or password",
    "Not authorized",
    "Client identifier not valid",
    "Banned",
    "Bad authentication method",
}

log = Logger("link.client")


class _Paho(Client):
    """paho's client over a socket that is already connected, with buffered and bounded reads."""

    ready_socket: socket.socket | None = None
    max_packet_bytes = 0
    unread = b""

    def _create_socket(self) -> Any:
        ready, self.ready_socket = self.ready_socket, None
        assert ready is not None
        return ready

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._in_packet["to_process"] > self.max_packet_bytes:
            raise ConnectionError("the broker sent a packet that is too large")
        if not self.unread:
            self.unread = super()._sock_recv(READ_BYTES)
        piece, self.unread = self.unread[:bufsize], self.unread[bufsize:]
        return piece


class PahoBroker:
    """A broker at ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://…``. MQTT 5 unless ``version`` says 4 (3.1.1)."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        version: int = 5,
        max_packet_bytes: int = (256 << 10) + 1024,
        receive_maximum: int = 100,
        session_s: int = 0,
    ) -> None:
        """``tls`` is asked at every connect, so a renewed certificate is used from the next one. Raises UsageError.

        ``session_s``: for how long the broker keeps subscriptions, and what is not acknowledged, between two connections
        of one client id (3.1.1 cannot say how long); 0: a clean session.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"broker URL: {error}") from error
        if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/"):
            raise UsageError("broker URL: write mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        if version not in (4, 5):
            raise UsageError("MQTT version: 4 (3.1.1) or 5")
        self.host, self.port = parts.hostname, port or PORTS[parts.scheme]
        self.secure = parts.scheme == "mqtts"
        self.version = version
        self._username = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._clock = clock
        self._tls = tls
        self._server_hostname = server_hostname
        self._max_packet_bytes = max_packet_bytes
        self._receive_maximum = receive_maximum
        self._timeout_s = CONNECT_TIMEOUT_S
        self._session_s = session_s

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> "PahoConnection":
        """Return a live connection. Raises Unreachable, Refused."""
        loop = asyncio.get_running_loop()
        began_s = self._clock.now_s()
        pending = loop.run_in_executor(None, self._open_socket)
        try:
            sock = await asyncio.shield(pending)
        except asyncio.CancelledError:
            pending.add_done_callback(_close_late)
            raise
        connection = PahoConnection(self._client(client_id, will, sock), loop, f"{self.host}:{self.port}")
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.open(self.host, self.port, keep_alive_s, self._connect_properties())
        except TimeoutError as error:
            connection.end("no CONNACK")
            raise Unreachable(
                f"broker {self.host}:{self.port} did not answer CONNECT within {self._timeout_s:g} s"
            ) from error
        except BaseException:
            connection.end("not connected")
            raise
        log.debug("broker connected", broker=f"{self.host}:{self.port}", seconds=f"{self._clock.now_s() - began_s:.3f}")
        return connection

    def _client(self, client_id: str, will: Will | None, sock: socket.socket) -> _Paho:
        five = self.version == 5
        client = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if five else not self._session_s,
            protocol=MQTTv5 if five else MQTTv311,
            manual_ack=True,
        )
        client.ready_socket = sock
        client.max_packet_bytes = self._max_packet_bytes
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.max_inflight_messages = MAX_INFLIGHT
        return client

    def _connect_properties(self) -> Properties | None:
        if self.version != 5:
            return None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self._max_packet_bytes
        properties.SessionExpiryInterval = self._session_s
        return properties

    def _open_socket(self) -> socket.socket:
        """Connect and shake hands; in a worker thread."""
        where = f"broker {self.host}:{self.port}"
        try:
            sock = socket.create_connection((self.host, self.port), timeout=self._timeout_s)
        except OSError as error:
            raise Unreachable(f"{where}: {error.strerror or error}") from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.secure:
                context = self._tls() if self._tls is not None else ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=self._server_hostname or self.host)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise Refused(f"{where}: its certificate is not trusted: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            sock.close()
            raise Unreachable(f"{where}: TLS failed: {getattr(error, 'reason', None) or error}") from error
        return sock


class PahoConnection:
    """One live connection."""

    def __init__(self, client: _Paho, loop: asyncio.AbstractEventLoop, where: str) -> None:
        self._client = client
        self._loop = loop
        self._where = where
        self._lost = ""  # why the connection has ended
        self._queue: deque[MQTTMessage] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._pubacks: dict[int, asyncio.Future[None]] = {}
        self._subacks: dict[int, asyncio.Future[None]] = {}
        self._connack: asyncio.Future[None] = loop.create_future()
        self._descriptor = -1
        self._reading = False
        self._misc: asyncio.TimerHandle | None = None

    async def open(self, host: str, port: int, keep_alive_s: int, properties: Properties | None) -> None:
        """Send CONNECT and wait for CONNACK. Raises Unreachable, Refused."""
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_write_wanted
        client.on_socket_unregister_write = self._on_write_done
        five: dict[str, Any] = {}
        if properties is not None:
            five = {"clean_start": not getattr(properties, "SessionExpiryInterval", 0), "properties": properties}
        client.connect(host, port, keep_alive_s, **five)
        self._misc = self._loop.call_later(MISC_PERIOD_S, self._do_misc)
        await self._connack

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Return once SUBACK granted it. Raises Refused, ConnectionLost."""
        self._check()
        code, mid = self._client.subscribe(topic_filter, qos)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise ConnectionLost(f"{self._where}: not connected")
        future: asyncio.Future[None] = self._loop.create_future()
        self._subacks[mid] = future
        await future

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> "asyncio.Future[None]":
        """Send in call order; the future resolves at PUBACK (QoS 0: at once) or fails with ConnectionLost."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._lost:
            future.set_exception(ConnectionLost(self._lost))
            return future
        sent = self._client.publish(topic, payload, qos, retain)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            future.set_exception(ConnectionLost(f"{self._where}: {sent.rc.name}"))
        elif qos == 0:
            future.set_result(None)
        else:
            self._pubacks[sent.mid] = future
        return future

    async def receive(self) -> Inbound:
        """Return the next message in arrival order. Raises ConnectionLost."""
        while not self._queue:
            self._check()
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._queue.popleft()
        if not self._reading and len(self._queue) <= RESUME_UNREAD:
            self._read_again()
        mid, qos = message.mid, message.qos
        return Inbound(message.topic, bytes(message.payload), message.retain, lambda: self._ack(mid, qos))

    async def close(self) -> None:
        """DISCONNECT, so that no will is published."""
        if not self._lost:
            self._client.disconnect()
            with contextlib.suppress(OSError, ValueError):
                self._client.loop_write()
        self.end("closed")

    def end(self, reason: str) -> None:
        """Close the socket and fail whatever waits."""
        if self._misc is not None:
            self._misc.cancel()
        self._client._sock_close()  # noqa: SLF001  paho has no public way to leave without a callback
        if self._client.ready_socket is not None:
            self._client.ready_socket.close()
        self._fail(f"{self._where}: {reason}")

    # paho's callbacks, on the loop's thread

    def _on_connect(
        self, client: Client, _data: Any, _flags: Any, code: ReasonCode, properties: Properties | None
    ) -> None:
        if self._connack.done():
            return
        if code.is_failure:
            kind = Refused if code.getName() in REFUSALS else Unreachable
            self._connack.set_exception(kind(f"{self._where} refused the connection: {code.getName()}"))
            return
        wanted = getattr(properties, "ReceiveMaximum", MAX_INFLIGHT)
        client._max_inflight_messages = min(MAX_INFLIGHT, wanted)  # noqa: SLF001  its setter refuses a live connection
        self._connack.set_result(None)

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._fail(f"{self._where}: connection ended: {code.getName()}")

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._queue.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if len(self._queue) >= MAX_UNREAD and self._reading:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def _on_publish(self, _client: Client, _data: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        future = self._pubacks.pop(mid, None)
        if future is None or future.done():
            return
        if code.is_failure:
            future.set_exception(Refused(f"{self._where} refused a publish: {code.getName()}"))
        else:
            future.set_result(None)

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        future = self._subacks.pop(mid, None)
        if future is None or future.done():
            return
        if any(code.is_failure for code in codes):
            future.set_exception(Refused(f"{self._where} refused a subscription: {codes[0].getName()}"))
        else:
            future.set_result(None)

    def _on_socket_open(self, _client: Client, _data: Any, sock: Any) -> None:
        self._descriptor = sock.fileno()
        self._reading = True
        self._loop.add_reader(self._descriptor, self._do_read)

    def _on_socket_close(self, _client: Client, _data: Any, _sock: Any) -> None:
        self._reading = False
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)

    def _on_write_wanted(self, _client: Client, _data: Any, _sock: Any) -> None:
        self._loop.add_writer(self._descriptor, self._client.loop_write)

    def _on_write_done(self, _client: Client, _data: Any, _sock: Any) -> None:
        self._loop.remove_writer(self._descriptor)

    # inside

    def _do_read(self) -> None:
        client = self._client
        for _ in range(PACKETS_A_TURN):
            if client.socket() is None or not self._reading:
                return
            client.loop_read()
            if not client.unread and not self._tls_pending():
                return
        self._loop.call_soon(self._do_read)

    def _tls_pending(self) -> bool:
        sock = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _read_again(self) -> None:
        if self._client.socket() is not None and not self._reading:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._do_read)
            self._loop.call_soon(self._do_read)

    def _do_misc(self) -> None:
        if self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._lost:
            self._misc = self._loop.call_later(MISC_PERIOD_S, self._do_misc)

    def _ack(self, mid: int, qos: int) -> None:
        if qos and not self._lost:
            self._client.ack(mid, qos)

    def _check(self) -> None:
        if self._lost:
            raise ConnectionLost(self._lost)

    def _fail(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = reason
        if not self._connack.done():
            self._connack.set_exception(Unreachable(reason))
            self._connack.exception()
        for future in [*self._pubacks.values(), *self._subacks.values()]:
            if not future.done():
                future.set_exception(ConnectionLost(reason))
                future.exception()  # whoever does not wait for it is not told twice
        self._pubacks.clear()
        self._subacks.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _close_late(pending: "asyncio.Future[socket.socket] | Future[socket.socket]") -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().close()

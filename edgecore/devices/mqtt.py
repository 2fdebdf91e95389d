"""PORT DeviceBroker: the MQTT broker that devices speak to, embedded (proto.mqtt) or external by URL (proto.link.client)."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from devicetwin.topics import FILTERS, ROUTER_FILTERS
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, SkerryError
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.broker import Broker, Connection, ConnectionLost, Inbound
from proto.mqtt.broker import MqttBroker
from proto.mqtt.packets import Publish

MOST_BACKOFF_S = 5.0  # the broker is near
log = Logger("devices")
Receive = Callable[[str, bytes], "asyncio.Future[None]"]


class DeviceBroker(Protocol):
    """Delivers what devices publish, and publishes to them. QoS 1, never retained."""

    async def run(self, receive: Receive) -> None:
        """Hand every PUBLISH on a topic of ours to ``receive`` until cancelled.

        PUBACK is sent when the returned future resolves, never when it fails.
        """
        ...

    def publish(self, topic: str, payload: bytes) -> None:
        """Send after everything that was published before; a broker that is away drops it and counts."""
        ...

    def listens(self, topic: str) -> bool:
        """Whether somebody may hear ``topic``; True when that cannot be known."""
        ...


class EmbeddedBroker:
    """The broker in this process: a device's PUBACK waits for the twin's transaction."""

    def __init__(self, broker: MqttBroker, *, metrics: Metrics) -> None:
        self._broker = broker
        self._lost = _lost(metrics)
        self._receive: Receive | None = None
        self._router = metrics.counter(
            "skerry_edge_router_messages_total", "Messages on topics of KubeEdge's router, which stay on the gateway."
        )
        for topic_filter in FILTERS:
            broker.add_sink(topic_filter, self._sink)
        for topic_filter in ROUTER_FILTERS:
            broker.add_sink(topic_filter, self._count)

    async def run(self, receive: Receive) -> None:
        self._receive = receive
        await asyncio.get_running_loop().create_future()

    def _sink(self, messages: list[Publish]) -> "asyncio.Future[Any]":
        if self._receive is None:
            raise ConnectionLost("the device room is not open yet")  # no PUBACK: the device sends it again
        taken = [self._receive(message.topic, message.payload) for message in messages]
        return taken[0] if len(taken) == 1 else asyncio.gather(*taken)

    def _count(self, messages: list[Publish]) -> None:
        self._router.inc(by=len(messages))

    def publish(self, topic: str, payload: bytes) -> None:
        self._broker.publish(topic, payload, 1, exclude=self._sink).add_done_callback(self._sent)

    def listens(self, topic: str) -> bool:
        plan = self._broker.routing.plan(topic)
        return bool(plan.routes or plan.groups)

    def _sent(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled() and future.exception() is not None:
            self._lost.inc("not kept")


class NotKept(Retryable):
    """A message was not written, so it is not acknowledged: the broker must send it again."""

    code = "NotKept"


class ExternalBroker:
    """A broker by URL. Messages are acknowledged by hand, so what is not on disk comes again after a reconnect.

    ``broker`` keeps the session between connections; what was sent meanwhile comes too.
    """

    def __init__(self, broker: Broker, client_id: str, *, clock: Clock, rng: Rng, metrics: Metrics) -> None:
        self._broker = broker
        self._client_id = client_id
        self._clock = clock
        self._rng = rng
        self._connection: Connection | None = None
        self._is_well = True  # nobody was told of a trouble
        self._is_full = False  # what was taken last could not be written
        self._lost = _lost(metrics)

    async def run(self, receive: Receive) -> None:
        backoff = Backoff(cap_s=MOST_BACKOFF_S, rng=self._rng)
        while True:
            try:
                await self._session(receive, backoff)
            except SkerryError as error:
                if self._is_well:
                    log.warning("device broker lost", error=error)
                self._is_well = False
            finally:
                self._connection = None
            await self._clock.sleep(backoff.next_s())

    def publish(self, topic: str, payload: bytes) -> None:
        if self._connection is None:
            self._lost.inc("broker away")
            return
        self._connection.publish(topic, payload, qos=1).add_done_callback(self._sent)

    def listens(self, topic: str) -> bool:
        return bool(topic)

    async def _session(self, receive: Receive, backoff: Backoff) -> None:
        connection = await self._broker.connect(self._client_id)
        ended: asyncio.Future[SkerryError] = asyncio.get_running_loop().create_future()
        try:
            for topic_filter in FILTERS:
                await connection.subscribe(topic_filter)
            self._connection = connection
            if not self._is_full:  # else it will only hear again that nothing can be written
                backoff.reset()
                self._is_well = True
                log.info("device broker connected")
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(connection, receive, ended))
                error = await ended
                reader.cancel()
            raise error
        finally:
            await connection.close()

    async def _read(self, connection: Connection, receive: Receive, ended: "asyncio.Future[SkerryError]") -> None:
        try:
            while not ended.done():
                self._take(await connection.receive(), receive, ended)
        except SkerryError as error:
            _end(ended, error)

    def _take(self, message: Inbound, receive: Receive, ended: "asyncio.Future[SkerryError]") -> None:
        def settled(future: "asyncio.Future[None]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            self._is_full = error is not None
            if error is None:
                message.ack()
            else:  # without the ack the broker's window closes bit by bit: begin anew, it sends all of that again
                _end(ended, NotKept(f"not written: {error}"))

        receive(message.topic, message.payload).add_done_callback(settled)

    def _sent(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled() and isinstance(future.exception(), ConnectionLost):
            self._lost.inc("connection lost")


def _end(ended: "asyncio.Future[SkerryError]", error: SkerryError) -> None:
    if not ended.done():
        ended.set_result(error)


def _lost(metrics: Metrics) -> Any:
    return metrics.counter(
        "skerry_edge_device_answers_lost_total", "Answers to devices that did not leave.", ["reason"]
    )

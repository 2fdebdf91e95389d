"""Byte streams over the link's own MQTT connection: runs the machine of proto.stream for both ends (STREAM-n).

QoS 0: our own window bounds what is on the way from end to end, so nothing waits for PUBACKs in front of a twin update, and
a frame that a broker drops is noticed by its stream.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from proto import stream_codec, topics
from proto.calls import MAX_CALL_BYTES, Call, CallRefused, OpenCall
from proto.kit.backoff import Rng
from proto.kit.channels import Channels, ChannelsClosed, Chunk, pipe
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, SkerryError
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.settings import LinkSettings
from proto.stream import CHUNK_BYTES, QUEUE_BYTES, Limits, Mux, Stream
from proto.stream_frames import Refused, StreamAcks

ACK_BYTES = 16 << 10  # arrived and not confirmed: confirm at once
ACK_DELAY_S = 0.004  # else together with what arrives in this time
NUMBERS = 1 << 64
TICK_S = 0.5
OPEN_MARGIN_S = 5.0  # the edge gives up this much earlier than the cloud, so that its reason is heard
FAILED = "the node failed to serve this call"

Publish = Callable[[str, bytes], None]  # topic, payload; at QoS 0
log = Logger("link.streams")


class NodeAway(Retryable):
    """The node has no session now, so nothing can be asked of it."""

    code = "NodeAway"


class StreamChannels:
    """One end of a stream as ``Channels``."""

    def __init__(self, lines: "Lines", stream: Stream) -> None:
        self.stream = stream
        self._lines = lines
        self._changed = asyncio.Event()
        stream.changed = self._changed.set

    async def read(self) -> Chunk | None:
        while True:
            chunk = self._lines.mux.read(self.stream)
            if chunk is not None:
                self._lines.leave()
                return chunk
            if self.stream.ended is not None:
                if self.stream.ended:
                    raise ChannelsClosed(self.stream.ended)
                return None
            await self.change()

    async def write(self, channel: int, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            while self.stream.queued_bytes >= QUEUE_BYTES:
                self._check()
                await self.change()
            self._check()
            self._lines.mux.write(self.stream, channel, bytes(view[start : start + CHUNK_BYTES]))
            self._lines.leave()

    async def finish(self, channel: int) -> None:
        self._check()
        self._lines.mux.finish(self.stream, channel)
        self._lines.leave()

    async def close(self, error: str = "") -> None:
        self._lines.mux.close(self.stream, error)
        self._lines.leave()

    async def change(self) -> None:
        """Wait until something about the stream is different."""
        self._changed.clear()
        await self._changed.wait()

    def _check(self) -> None:
        if self.stream.ended is not None:
            raise ChannelsClosed(self.stream.ended or "the other side has closed the stream")


class Lines:
    """All streams of one node in one session: the machine, and when it is asked for what may leave."""

    def __init__(
        self,
        node: str,
        leg: Literal["up", "down"],
        mux: Mux,
        publish: Publish,
        clock: Clock,
        dropped: Callable[[str], None],
    ) -> None:
        self.node, self.mux = node, mux
        self._leg: Literal["up", "down"] = leg
        self._publish = publish
        self._clock = clock
        self._dropped = dropped
        self._leaving = False
        self._ack_timer: asyncio.TimerHandle | None = None

    def received(self, number: int, payload: bytes) -> Stream | None:
        """Take a payload of a stream's topic; returns a stream that it opens. Raises MalformedMessage."""
        now_s = self._clock.now_s()
        opened = None
        frame: Any = stream_codec.decode(payload) if number else stream_codec.decode_acks(payload)
        if frame.session != self.mux.session:
            self._dropped("session")
        elif number:
            opened = self.mux.receive(number, frame, now_s)
        else:
            self.mux.receive_acks(frame, now_s)
        self.leave()
        return opened

    def leave(self) -> None:
        """Something may be sent: look once in this turn of the loop."""
        if not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._left)

    def tick(self) -> None:
        self.mux.tick(self._clock.now_s())
        self.leave()

    def _left(self) -> None:
        self._leaving = False
        for number, frame in self.mux.pull(self._clock.now_s()):
            self._publish(topics.stream(self.node, number, self._leg), stream_codec.encode(frame))
        if self.mux.unacked_bytes >= ACK_BYTES:
            self._acknowledge()
        elif self.mux.owes and self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        while (acks := self.mux.acks()) is not None:
            self._publish(topics.stream(self.node, 0, self._leg), stream_codec.encode_acks(acks))

    def end(self, reason: str) -> None:
        self.mux.end(reason)
        if self._ack_timer is not None:
            self._ack_timer.cancel()


class _Counts:
    """What both ends count."""

    def __init__(self, metrics: Metrics) -> None:
        self.opened = metrics.counter("skerry_streams_total", "Byte streams, by kind and outcome.", ["kind", "outcome"])
        self.dropped = metrics.counter("skerry_streams_dropped_total", "Frames of streams not taken.", ["reason"])


class CloudStreams:
    """Opens calls at nodes. CloudLink tells it of sessions and frames."""

    def __init__(self, settings: LinkSettings, *, clock: Clock, rng: Rng, metrics: Metrics) -> None:
        self._limits = limits_of(settings)
        self._clock, self._rng = clock, rng
        self._counts = _Counts(metrics)
        self.unavailable = ""  # why no stream can be had from any node: the broker's rights
        self._connected = False  # to the broker
        self._ticked_s = float("-inf")
        self._lines: dict[str, Lines] = {}
        self._reset: dict[str, Lines] = {}  # sessions whose streams ended without the edge knowing
        metrics.gauge("skerry_streams", "Byte streams that are open.", source=self._count)

    async def open(self, node: str, call: Call) -> Channels:
        """Open ``call`` at ``node``. Raises CallRefused, NodeAway, Retryable."""
        encoded = msgspec.json.encode(call)
        if len(encoded) > MAX_CALL_BYTES:
            raise CallRefused(400, "BadRequest", f"a call of {len(encoded)} bytes is larger than {MAX_CALL_BYTES}")
        lines = self._lines.get(node)
        if self.unavailable or not self._connected:
            raise NodeAway(self.unavailable or "the cloud is not connected to the broker")
        if lines is None:
            raise NodeAway(f"node {node} is not connected to the cloud")
        if lines.mux.full:
            text = f"node {node} has {self._limits.max_streams} streams open: end some first"
            raise CallRefused(429, "TooManyRequests", text)
        stream = lines.mux.open(self._number(lines), encoded, self._clock.now_s())
        channels = StreamChannels(lines, stream)
        lines.leave()
        try:
            while not stream.accepted and stream.ended is None:
                await channels.change()
        except asyncio.CancelledError:
            await channels.close("nobody waits any more")
            raise
        if stream.refusal is not None:
            self._counts.opened.inc(call.kind, "refused")
            raise CallRefused(stream.refusal.status, stream.refusal.reason, stream.refusal.text)
        if not stream.accepted:
            self._counts.opened.inc(call.kind, "failed")
            raise Retryable(f"node {node}: {stream.ended}")
        self._counts.opened.inc(call.kind, "opened")
        return channels

    def _number(self, lines: Lines) -> int:
        while (number := self._rng.randrange(1, NUMBERS)) in lines.mux.streams:
            continue
        return number

    def _count(self) -> float:
        return sum(len(lines.mux.streams) for lines in self._lines.values())

    # told by the link

    def opened(self, node: str, session: int, publish: Publish) -> None:
        """A session is live."""
        self.ended(node, "a new session of the node began")
        mux = Mux(session, self._limits, serves=False)
        self._lines[node] = Lines(node, "down", mux, publish, self._clock, self._counts.dropped.inc)

    def ended(self, node: str, reason: str) -> None:
        """The session is over."""
        self._reset.pop(node, None)
        lines = self._lines.pop(node, None)
        if lines is not None:
            lines.end(f"the connection to node {node} was lost: {reason}")

    def received(self, topic: str, payload: bytes) -> None:
        """Take a frame. Raises MalformedMessage."""
        node, number, leg = topics.parse_stream(topic)
        lines = self._lines.get(node)
        if lines is None or leg != "up":
            self._counts.dropped.inc("no session")
            return
        lines.received(number, payload)

    def disconnected(self) -> None:
        """The connection to the broker is gone; sessions may outlive that, streams do not."""
        self._connected = False
        for node, lines in self._lines.items():
            if lines.mux.streams:
                lines.end("the cloud lost its connection to the broker")
                self._reset[node] = lines

    def reconnected(self, publish: Publish) -> None:
        """Tell those edges whose sessions go on that their streams are over."""
        self._connected = True
        for node, lines in self._reset.items():
            payload = stream_codec.encode_acks(StreamAcks(lines.mux.session, reset=True))
            publish(topics.stream(node, 0, "down"), payload)
        self._reset.clear()

    def tick(self) -> None:
        """Look at what is overdue; may be called more often than that."""
        now_s = self._clock.now_s()
        if now_s - self._ticked_s >= TICK_S:
            self._ticked_s = now_s
            for lines in self._lines.values():
                if lines.mux.streams:
                    lines.tick()


class EdgeStreams:
    """Serves the calls that the cloud opens. EdgeLink tells it of the session and frames."""

    def __init__(self, open_call: OpenCall, settings: LinkSettings, *, clock: Clock, metrics: Metrics) -> None:
        self._open_call = open_call
        self._limits = limits_of(settings)
        self._clock = clock
        self._counts = _Counts(metrics)
        self._lines: Lines | None = None
        self._openings: asyncio.Queue[tuple[Lines, Stream]] = asyncio.Queue()  # at most max_streams of a session
        self._ticked_s = float("-inf")
        metrics.gauge("skerry_streams", "Byte streams that are open.", source=self._count)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._serve(*await self._openings.get()), name="stream")

    def _count(self) -> float:
        return 0.0 if self._lines is None else len(self._lines.mux.streams)

    # told by the link

    def opened(self, node: str, session: int, publish: Publish) -> None:
        """A session is live."""
        self.ended("a new session began")
        mux = Mux(session, self._limits, serves=True)
        self._lines = Lines(node, "up", mux, publish, self._clock, self._counts.dropped.inc)

    def ended(self, reason: str) -> None:
        """The session is over."""
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.end(f"the link to the cloud was lost: {reason}")

    def received(self, topic: str, payload: bytes) -> None:
        """Take a frame. Raises MalformedMessage."""
        _, number, leg = topics.parse_stream(topic)
        lines = self._lines
        if lines is None or leg != "down":
            self._counts.dropped.inc("no session")
            return
        stream = lines.received(number, payload)
        if stream is not None:
            self._openings.put_nowait((lines, stream))

    def tick(self) -> None:
        """Look at what is overdue; may be called more often than that."""
        now_s = self._clock.now_s()
        if self._lines is not None and self._lines.mux.streams and now_s - self._ticked_s >= TICK_S:
            self._ticked_s = now_s
            self._lines.tick()

    async def _serve(self, lines: Lines, stream: Stream) -> None:
        channels = StreamChannels(lines, stream)
        kind = "unknown"
        try:
            call = msgspec.json.decode(stream.call, type=Call)
            kind = call.kind
            async with asyncio.timeout(max(1.0, self._limits.open_s - OPEN_MARGIN_S)):
                served = await _unless_ended(channels, self._open_call, call)
        except (SkerryError, msgspec.MsgspecError, TimeoutError) as error:
            self._refuse(lines, stream, kind, _refusal(error))
            return
        except Exception:  # one call's trouble must not end the others
            log.exception("a call failed", kind=kind)
            self._refuse(lines, stream, kind, Refused(500, "InternalError", FAILED))
            return
        self._counts.opened.inc(kind, "opened")
        lines.mux.accept(stream)
        lines.leave()
        try:
            await pipe(served, channels)
        except Exception:
            log.exception("a stream failed", kind=kind)
            await channels.close(FAILED)

    def _refuse(self, lines: Lines, stream: Stream, kind: str, refusal: Refused) -> None:
        self._counts.opened.inc(kind, "refused")
        lines.mux.refuse(stream, refusal)
        lines.leave()


def _refusal(error: Exception) -> Refused:
    if isinstance(error, CallRefused):
        return Refused(error.status, error.reason, str(error))
    if isinstance(error, msgspec.MsgspecError):
        return Refused(400, "BadRequest", f"the node does not understand this call: {error}")
    if isinstance(error, TimeoutError):
        return Refused(504, "Timeout", "the node's runtime did not answer in time")
    if isinstance(error, Retryable | ChannelsClosed):
        return Refused(503, "ServiceUnavailable", str(error))
    return Refused(500, "InternalError", str(error))


async def _unless_ended(channels: StreamChannels, open_call: OpenCall, call: Call) -> Channels:
    """Return what ``open_call`` opens; give it up when the stream ends first. Raises ChannelsClosed, and what it raises."""

    async def opening() -> Channels:
        return await open_call(call)

    async def ended() -> None:
        while channels.stream.ended is None:
            await channels.change()

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(ended(), name="stream end")
            served = group.create_task(opening(), name="stream opening")
            await asyncio.wait({watching, served}, return_when=asyncio.FIRST_COMPLETED)
            (watching if served.done() else served).cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if served.cancelled():
        raise ChannelsClosed("nobody waits any more")
    return served.result()


def limits_of(settings: LinkSettings) -> Limits:
    """Return the bounds of one node's streams."""
    return Limits(settings.max_streams, settings.stream_window_bytes, settings.stream_open_s)

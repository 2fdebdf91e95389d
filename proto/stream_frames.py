"""Frames of byte streams as values; what each field means is in stream.proto and README.md."""

from collections.abc import Sequence

from msgspec import Struct


class Open(Struct, frozen=True):
    call: bytes
    limit: int


class Accepted(Struct, frozen=True):
    limit: int


class Refused(Struct, frozen=True):
    status: int
    reason: str
    text: str


class Portion(Struct, frozen=True):
    channel: int
    content: bytes


class Finish(Struct, frozen=True):
    channel: int


class Close(Struct, frozen=True):
    error: str = ""


Body = Open | Accepted | Refused | Portion | Finish | Close


class StreamFrame(Struct, frozen=True):
    """One MQTT payload on a stream's own topic."""

    session: int
    seq: int
    body: Body


class StreamAcks(Struct, frozen=True):
    """One MQTT payload on the topic of stream 0."""

    session: int
    streams: Sequence[int] = ()
    seqs: Sequence[int] = ()
    limits: Sequence[int] = ()
    probes: Sequence[int] = ()
    reset: bool = False

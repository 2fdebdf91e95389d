"""The only gate between bytes and frames of the link. Bounds before allocation; raises MalformedMessage (WIRE-n)."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from proto import digest, frames
from proto.frames import Frame, Lane
from proto.gen import link_pb2 as pb
from proto.kit.errors import MalformedMessage
from proto.link.replica import MessageRow, StateChange

MAX_FRAME_BYTES = 256 << 10
MAX_OBJECT_BYTES = 2 << 20
MAX_PIECES = 64
MAX_KEY = 512
MAX_NAME = 64  # incarnations and kinds
MAX_MARKS = 64
MAX_SEQ = 1 << 62  # SQL integers are signed


def encode(frame: Frame) -> bytes:
    """Return the bytes of ``frame``."""
    out = pb.Frame(epoch=frame.epoch, tag=frame.tag)
    for ack in frame.acks:
        out.acks.add(lane=int(ack.lane), seq=ack.seq, lineage=ack.lineage)
    if frame.body is not None:
        _WRITERS[type(frame.body)](out, frame.body)
    payload: bytes = out.SerializeToString()
    return payload


def decode(payload: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> Frame:
    """Read one frame; raises MalformedMessage (WIRE-1 to WIRE-5)."""
    if len(payload) > max_bytes:
        raise MalformedMessage(f"frame of {len(payload)} bytes is larger than {max_bytes}")
    message = pb.Frame()
    try:
        message.ParseFromString(payload)
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedMessage("payload is not a link frame") from error
    name = message.WhichOneof("body")
    body = None if name is None else _READERS[name](getattr(message, name))
    if len(message.acks) > MAX_MARKS:
        raise MalformedMessage("too many acknowledgements in one frame")
    acks = tuple(frames.Ack(_lane(a.lane), a.seq, _name(a.lineage)) for a in message.acks) if message.acks else ()
    return Frame(message.epoch, body, acks, message.tag)


def encode_presence(presence: frames.Presence) -> bytes:
    """Return the payload of the presence topic."""
    out = pb.Presence(online=presence.online, connection=presence.connection, epoch=presence.epoch)
    payload: bytes = out.SerializeToString()
    return payload


def decode_presence(payload: bytes) -> frames.Presence:
    """Read a presence payload; raises MalformedMessage."""
    message = pb.Presence()
    try:
        if len(payload) > MAX_KEY:
            raise MalformedMessage("presence payload is too large")
        message.ParseFromString(payload)
    except DecodeError as error:
        raise MalformedMessage("payload is not a presence") from error
    return frames.Presence(message.online, message.connection, message.epoch)


def cut(body: "frames.States | frames.Messages", size: int) -> list[frames.Piece]:
    """Cut a body that is larger than a frame into pieces of ``size`` bytes (WIRE-6)."""
    whole = encode(Frame(0, body))
    parts = [whole[i : i + size] for i in range(0, len(whole), size)]
    if isinstance(body, frames.States):
        lane, seq, lineage = Lane.STATE, body.seq, ""
    else:
        lane, seq, lineage = Lane.MESSAGE, body.end, body.lineage
    return [frames.Piece(lane, seq, i, len(parts), part, lineage) for i, part in enumerate(parts)]


def join(chunks: Sequence[bytes]) -> "frames.States | frames.Messages":
    """Read back what ``cut`` cut; raises MalformedMessage."""
    whole = decode(b"".join(chunks), max_bytes=MAX_OBJECT_BYTES + MAX_FRAME_BYTES)
    if not isinstance(whole.body, frames.States | frames.Messages):
        raise MalformedMessage("pieces make no batch")
    return whole.body


def _lane(number: int) -> Lane:
    if number not in (0, 1):
        raise MalformedMessage(f"lane {number} is unknown")
    return Lane(number)


def _name(text: str) -> str:
    if len(text) > MAX_NAME:
        raise MalformedMessage("incarnation or kind is too long")
    return text


def _root(value: bytes) -> bytes:
    if len(value) not in (0, digest.DIGEST_BYTES):
        raise MalformedMessage("digest is not 16 bytes")
    return value


def _marks(marks: Sequence[Any]) -> tuple[frames.Mark, ...]:
    if len(marks) > MAX_MARKS:
        raise MalformedMessage("too many positions in a hello or welcome")
    return tuple(frames.Mark(_name(m.lineage), m.seq) for m in marks)


def _write_hello(out: Any, body: frames.Hello) -> None:
    hello = out.hello
    for field in ("version", "connection", "nonce", "attempt", "incarnation", "epoch", "cloud"):
        setattr(hello, field, getattr(body, field))
    hello.floor, hello.last, hello.held, hello.keep_alive_ms = body.floor, body.last, body.held, body.keep_alive_ms
    for mark in body.marks:
        hello.marks.add(lineage=mark.lineage, seq=mark.seq)


def _read_hello(m: Any) -> frames.Hello:
    if not m.incarnation:
        raise MalformedMessage("hello names no incarnation")
    if not m.floor <= m.last < MAX_SEQ or m.epoch >= MAX_SEQ:
        raise MalformedMessage("hello has impossible positions")
    return frames.Hello(
        version=m.version,
        connection=m.connection,
        nonce=m.nonce,
        attempt=m.attempt,
        incarnation=_name(m.incarnation),
        epoch=m.epoch,
        cloud=_name(m.cloud),
        floor=m.floor,
        last=m.last,
        marks=_marks(m.marks),
        held=_root(m.held),
        keep_alive_ms=m.keep_alive_ms,
    )


def _write_welcome(out: Any, body: frames.Welcome) -> None:
    welcome = out.welcome
    welcome.nonce, welcome.cloud, welcome.mark, welcome.statuses = body.nonce, body.cloud, body.mark, body.statuses
    for mark in body.bases:
        welcome.bases.add(lineage=mark.lineage, seq=mark.seq)


def _read_welcome(m: Any) -> frames.Welcome:
    if not m.cloud:
        raise MalformedMessage("welcome names no incarnation")
    return frames.Welcome(
        nonce=m.nonce, cloud=_name(m.cloud), mark=m.mark, bases=_marks(m.bases), statuses=_root(m.statuses)
    )


def _write_refused(out: Any, body: frames.Refused) -> None:
    out.refused.SetInParent()
    refused = out.refused
    refused.nonce, refused.reason, refused.text = body.nonce, int(body.reason), body.text
    refused.retry_after_ms = body.retry_after_ms


def _read_refused(m: Any) -> frames.Refused:
    try:
        reason = frames.Reason(m.reason)
    except ValueError as error:
        raise MalformedMessage(f"reason {m.reason} is unknown") from error
    return frames.Refused(reason=reason, nonce=m.nonce, text=m.text[:MAX_KEY], retry_after_ms=m.retry_after_ms)


def _write_ping(out: Any, body: frames.Ping) -> None:
    out.ping.SetInParent()
    out.ping.held = body.held


def _write_pong(out: Any, body: frames.Pong) -> None:
    out.pong.SetInParent()
    out.pong.statuses = body.statuses


def _write_ask(out: Any, body: frames.Ask) -> None:
    out.ask.SetInParent()
    out.ask.inventory, out.ask.round, out.ask.buckets = int(body.inventory), body.round, body.buckets


def _read_ask(m: Any) -> frames.Ask:
    if len(m.buckets) > digest.BUCKETS:
        raise MalformedMessage("more than 256 buckets asked for")
    return frames.Ask(_inventory(m.inventory), m.round, m.buckets)


def _inventory(number: int) -> frames.Inventory:
    if number not in (0, 1):
        raise MalformedMessage(f"inventory {number} is unknown")
    return frames.Inventory(number)


def _write_answer(out: Any, body: frames.Answer) -> None:
    answer = out.answer
    answer.inventory, answer.round, answer.digests = int(body.inventory), body.round, body.digests
    answer.buckets, answer.key_digests = body.buckets, body.key_digests
    answer.keys.extend(body.keys)


def _read_answer(m: Any) -> frames.Answer:
    if m.digests and len(m.digests) != digest.BUCKETS * digest.DIGEST_BYTES:
        raise MalformedMessage("bucket digests are not 256 x 16 bytes")
    if len(m.key_digests) != len(m.keys) * digest.DIGEST_BYTES:
        raise MalformedMessage("key digests do not match the keys")
    return frames.Answer(_inventory(m.inventory), m.round, m.digests, m.buckets, list(m.keys), m.key_digests)


def _write_states(out: Any, body: frames.States) -> None:
    states = out.states
    states.seq = body.seq
    states.keys.extend([change.key for change in body.changes])
    states.digests.extend([change.digest for change in body.changes])
    states.bodies.extend([change.body or b"" for change in body.changes])


def _read_states(m: Any) -> frames.States:
    keys, digests, bodies = list(m.keys), list(m.digests), list(m.bodies)
    if not keys or not len(keys) == len(digests) == len(bodies):
        raise MalformedMessage("state batch has columns of different length")
    if m.seq == 0 or any(not 0 < len(key) <= MAX_KEY for key in keys):
        raise MalformedMessage("state batch has no seq or a bad key")
    for value in digests:
        _root(value)
    changes = [
        StateChange(key, body if value or body else None, value)
        for key, value, body in zip(keys, digests, bodies, strict=True)
    ]
    return frames.States(m.seq, changes)


def _write_messages(out: Any, body: frames.Messages) -> None:
    messages = out.messages
    messages.lineage, messages.prev = body.lineage, body.prev
    messages.seqs.extend([row.seq for row in body.rows])
    kinds = [row.kind for row in body.rows]
    messages.kinds.extend(kinds[:1] if len(set(kinds)) == 1 else kinds)
    messages.bodies.extend([row.body for row in body.rows])


def _read_messages(m: Any) -> frames.Messages:
    seqs, kinds, bodies = list(m.seqs), list(m.kinds), list(m.bodies)
    if len(kinds) == 1:
        kinds *= len(seqs)
    if not seqs or not len(seqs) == len(kinds) == len(bodies):
        raise MalformedMessage("message batch has columns of different length")
    before = m.prev
    for seq in seqs:
        if seq <= before:
            raise MalformedMessage("message batch is not in order")
        before = seq
    if before >= MAX_SEQ:
        raise MalformedMessage("message batch has an impossible seq")
    for kind in set(kinds):
        _name(kind)
    return frames.Messages(m.prev, list(map(MessageRow, seqs, kinds, bodies)), _name(m.lineage))


def _write_piece(out: Any, body: frames.Piece) -> None:
    piece = out.piece
    piece.lane, piece.lineage, piece.seq = int(body.lane), body.lineage, body.seq
    piece.index, piece.count, piece.chunk = body.index, body.count, body.chunk


def _read_piece(m: Any) -> frames.Piece:
    if not 0 < m.count <= MAX_PIECES or m.index >= m.count or not m.chunk:
        raise MalformedMessage("piece is outside its whole")
    return frames.Piece(_lane(m.lane), m.seq, m.index, m.count, m.chunk, _name(m.lineage))


_WRITERS: dict[type, Any] = {
    frames.Hello: _write_hello,
    frames.Welcome: _write_welcome,
    frames.Refused: _write_refused,
    frames.Ping: _write_ping,
    frames.Pong: _write_pong,
    frames.Ask: _write_ask,
    frames.Answer: _write_answer,
    frames.States: _write_states,
    frames.Messages: _write_messages,
    frames.Piece: _write_piece,
}
_READERS: dict[str, Any] = {
    "hello": _read_hello,
    "welcome": _read_welcome,
    "refused": _read_refused,
    "ping": lambda m: frames.Ping(_root(m.held)),
    "pong": lambda m: frames.Pong(_root(m.statuses)),
    "ask": _read_ask,
    "answer": _read_answer,
    "states": _read_states,
    "messages": _read_messages,
    "piece": _read_piece,
}

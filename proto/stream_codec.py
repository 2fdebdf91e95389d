"""The only gate between bytes and frames of streams. Bounds before allocation; raises MalformedMessage (STREAM-2)."""

from typing import Any

from google.protobuf.message import DecodeError

from proto import stream_frames as frames
from proto.calls import MAX_CALL_BYTES
from proto.gen import stream_pb2 as pb
from proto.kit.channels import RESIZE
from proto.kit.errors import MalformedMessage

MAX_FRAME_BYTES = MAX_CALL_BYTES + 1024
MAX_ACKS = 1024  # streams in one frame of acknowledgements
MAX_TEXT = 2048  # of an error, in characters
MAX_NUMBER = 1 << 62


def encode(frame: frames.StreamFrame) -> bytes:
    """Return the bytes of ``frame``."""
    out = pb.StreamFrame(session=frame.session, seq=frame.seq)
    _WRITERS[type(frame.body)](out, frame.body)
    payload: bytes = out.SerializeToString()
    return payload


def decode(payload: bytes) -> frames.StreamFrame:
    """Read one frame of a stream; raises MalformedMessage."""
    message = _parse(pb.StreamFrame(), payload)
    name = message.WhichOneof("body")
    if name is None or message.seq >= MAX_NUMBER:
        raise MalformedMessage("stream frame has no body or an impossible seq")
    return frames.StreamFrame(message.session, message.seq, _READERS[name](getattr(message, name)))


def encode_acks(acks: frames.StreamAcks) -> bytes:
    """Return the bytes of acknowledgements."""
    out = pb.StreamAcks(session=acks.session, reset=acks.reset)
    out.streams.extend(acks.streams)
    out.seqs.extend(acks.seqs)
    out.limits.extend(acks.limits)
    out.probes.extend(acks.probes)
    payload: bytes = out.SerializeToString()
    return payload


def decode_acks(payload: bytes) -> frames.StreamAcks:
    """Read acknowledgements; raises MalformedMessage."""
    m = _parse(pb.StreamAcks(), payload)
    if not len(m.streams) == len(m.seqs) == len(m.limits) <= MAX_ACKS or len(m.probes) > MAX_ACKS:
        raise MalformedMessage("acknowledgements of streams have columns of different length, or too many")
    if any(number >= MAX_NUMBER for number in (*m.seqs, *m.limits)):
        raise MalformedMessage("acknowledgements of streams have an impossible number")
    return frames.StreamAcks(m.session, list(m.streams), list(m.seqs), list(m.limits), list(m.probes), m.reset)


def _parse(message: Any, payload: bytes) -> Any:
    if len(payload) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"stream frame of {len(payload)} bytes is larger than {MAX_FRAME_BYTES}")
    try:
        message.ParseFromString(payload)
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedMessage("payload is not a stream frame") from error
    return message


def _channel(number: int) -> int:
    if number > RESIZE:
        raise MalformedMessage(f"channel {number} is unknown")
    return number


def _limit(number: int) -> int:
    if number >= MAX_NUMBER:
        raise MalformedMessage("stream frame has an impossible limit")
    return number


def _write_open(out: Any, body: frames.Open) -> None:
    out.open.call, out.open.limit = body.call, body.limit


def _write_accepted(out: Any, body: frames.Accepted) -> None:
    out.accepted.SetInParent()
    out.accepted.limit = body.limit


def _write_refused(out: Any, body: frames.Refused) -> None:
    out.refused.status, out.refused.reason, out.refused.text = body.status, body.reason, body.text[:MAX_TEXT]


def _read_refused(m: Any) -> frames.Refused:
    if not 400 <= m.status <= 599:
        raise MalformedMessage(f"a stream is refused with status {m.status}")
    return frames.Refused(m.status, m.reason[:MAX_TEXT], m.text[:MAX_TEXT])


def _write_portion(out: Any, body: frames.Portion) -> None:
    out.portion.channel, out.portion.content = body.channel, body.content


def _read_portion(m: Any) -> frames.Portion:
    if not m.content:
        raise MalformedMessage("portion of a stream is empty")
    return frames.Portion(_channel(m.channel), m.content)


def _write_finish(out: Any, body: frames.Finish) -> None:
    out.finish.SetInParent()
    out.finish.channel = body.channel


def _write_close(out: Any, body: frames.Close) -> None:
    out.close.SetInParent()
    out.close.error = body.error[:MAX_TEXT]


_WRITERS: dict[type, Any] = {
    frames.Open: _write_open,
    frames.Accepted: _write_accepted,
    frames.Refused: _write_refused,
    frames.Portion: _write_portion,
    frames.Finish: _write_finish,
    frames.Close: _write_close,
}
_READERS: dict[str, Any] = {
    "open": lambda m: frames.Open(m.call, _limit(m.limit)),
    "accepted": lambda m: frames.Accepted(_limit(m.limit)),
    "refused": _read_refused,
    "portion": _read_portion,
    "finish": lambda m: frames.Finish(_channel(m.channel)),
    "close": lambda m: frames.Close(m.error[:MAX_TEXT]),
}

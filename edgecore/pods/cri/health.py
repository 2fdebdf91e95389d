"""gRPC's own health protocol (grpc.health.v1), for probes of kind grpc. Two messages of one field each, written by hand."""

from dataclasses import dataclass

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

WORDS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
STRING_FIELD_1, VARINT_FIELD_1 = 0x0A, 0x08
MAX_SERVICE_BYTES = 127  # a length of one byte


@dataclass(frozen=True, slots=True)
class _Question:
    service: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int


class _Codec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: object, message_type: object) -> bytes:  # noqa: ARG002  the library's signature
        assert isinstance(message, _Question)
        name = message.service.encode()
        if len(name) > MAX_SERVICE_BYTES:
            raise ValueError("the service's name is longer than 127 bytes")
        return bytes((STRING_FIELD_1, len(name))) + name if name else b""

    def decode(self, content: bytes, message_type: object) -> _Answer:  # noqa: ARG002
        is_status = len(content) == 2 and content[0] == VARINT_FIELD_1
        return _Answer(content[1] if is_status else 0)


async def serving(host: str, port: int, service: str, timeout_s: float) -> str:
    """Ask ``host``; return SERVING, NOT_SERVING, UNKNOWN, SERVICE_UNKNOWN or the error. Raises OSError, TimeoutError."""
    channel = Channel(host, port, codec=_Codec())
    try:
        check = UnaryUnaryMethod(channel, "/grpc.health.v1.Health/Check", _Question, _Answer)
        answer = await check(_Question(service), timeout=timeout_s)
    except GRPCError as error:
        return f"{error.status.name}: {error.message or ''}"
    except StreamTerminatedError as error:
        return str(error)
    finally:
        channel.close()
    return WORDS.get(answer.status, "UNKNOWN")

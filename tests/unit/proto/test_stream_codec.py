import random

import pytest

from proto import stream_codec as codec
from proto.gen import stream_pb2 as pb
from proto.kit.errors import MalformedMessage
from proto.stream_frames import Accepted, Body, Close, Finish, Open, Portion, Refused, StreamAcks, StreamFrame

BODIES: list[Body] = [
    Open(b'{"kind":"ping"}', 1 << 18),
    Accepted(0),
    Refused(404, "NotFound", 'pods "é" not found'),
    Portion(0, b"\0" * 1000),
    Finish(0),
    Close(),
    Close("broken"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_frame_reads_back(body: Body) -> None:
    frame = StreamFrame(0xFFFFFFFF, 3, body)
    assert codec.decode(codec.encode(frame)) == frame


def test_acknowledgements_read_back() -> None:
    acks = StreamAcks(7, [1, (1 << 64) - 1], [3, 4], [5, 0], [9], reset=True)
    assert codec.decode_acks(codec.encode_acks(acks)) == acks


@pytest.mark.parametrize(
    "payload",
    [
        b"x" * (codec.MAX_FRAME_BYTES + 1),
        b"",
        b"\xff\xff",
        pb.StreamFrame(seq=1 << 62, accepted=pb.Accepted()).SerializeToString(),
        pb.StreamFrame(seq=1, accepted=pb.Accepted(limit=1 << 62)).SerializeToString(),
        pb.StreamFrame(seq=1, portion=pb.Portion(channel=5, content=b"x")).SerializeToString(),
        pb.StreamFrame(seq=1, portion=pb.Portion(channel=1)).SerializeToString(),
        pb.StreamFrame(seq=1, finish=pb.Finish(channel=9)).SerializeToString(),
        pb.StreamFrame(seq=1, refused=pb.Refused(status=200)).SerializeToString(),
    ],
)
def test_a_bad_frame_is_malformed(payload: bytes) -> None:
    """STREAM-2"""
    with pytest.raises(MalformedMessage):
        codec.decode(payload)


@pytest.mark.parametrize(
    "message",
    [
        pb.StreamAcks(streams=[1, 2], seqs=[1], limits=[1, 2]),
        pb.StreamAcks(streams=range(1025), seqs=range(1025), limits=range(1025)),
        pb.StreamAcks(probes=range(1025)),
        pb.StreamAcks(streams=[1], seqs=[1 << 62], limits=[1]),
    ],
)
def test_bad_acknowledgements_are_malformed(message: pb.StreamAcks) -> None:
    """STREAM-2"""
    with pytest.raises(MalformedMessage):
        codec.decode_acks(message.SerializeToString())


def test_noise_is_malformed_or_a_frame_and_nothing_else() -> None:
    """STREAM-2"""
    rng = random.Random(5)
    for _ in range(3000):
        payload = bytearray(codec.encode(StreamFrame(1, 2, rng.choice(BODIES))))
        for _ in range(rng.randrange(1, 4)):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
        for read in (codec.decode, codec.decode_acks):
            try:
                read(bytes(payload))
            except MalformedMessage:
                continue

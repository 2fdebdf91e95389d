"""WIRE-1 to WIRE-8."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import codec, frames, generate
from proto.frames import Ack, Frame, Lane, Mark
from proto.gen import link_pb2 as pb
from proto.kit.errors import MalformedMessage
from proto.link.replica import MessageRow, StateChange

D = bytes(range(16))
EXAMPLES = [
    Frame(),
    Frame(7, None, (), 0xFFFFFFFF),
    Frame(7, None, (Ack(Lane.STATE, 3), Ack(Lane.MESSAGE, 9, "c"))),
    Frame(0, frames.Hello(connection=5, nonce=6, incarnation="i", epoch=2, cloud="c", floor=1, last=4, marks=(Mark("c", 8),), held=D, keep_alive_ms=20000)),
    Frame(3, frames.Welcome(nonce=6, cloud="c", mark=4, bases=(Mark("c", 0),), statuses=D)),
    Frame(3, frames.Refused(reason=frames.Reason.BUSY, nonce=1, text="later", retry_after_ms=10)),
    Frame(3, frames.Refused(reason=frames.Reason.STALE)),
    Frame(3, frames.Ping()),
    Frame(3, frames.Ping(D)),
    Frame(3, frames.Pong(D)),
    Frame(3, frames.Ask(frames.Inventory.STATUSES, 4, b"\x00\xff")),
    Frame(3, frames.Answer(frames.Inventory.HELD, 4, digests=bytes(4096), keys=[])),
    Frame(3, frames.Answer(frames.Inventory.HELD, 4, b"", b"\x01", ["k"], D)),
    Frame(3, frames.States(1, [StateChange("k", b"{}", D), StateChange("gone", None), StateChange("s", b"x")])),
    Frame(3, frames.Messages(4, [MessageRow(5, "history", b"a"), MessageRow(9, "gap", b"b")], "c")),
    Frame(3, frames.Messages(4, [MessageRow(5, "history", b"a"), MessageRow(6, "history", b"")])),
    Frame(3, frames.Piece(Lane.MESSAGE, 9, 1, 3, b"abc", "c")),
]  # fmt: skip


@pytest.mark.parametrize("frame", EXAMPLES, ids=lambda f: type(f.body).__name__)
def test_a_frame_reads_back_as_it_was(frame: Frame) -> None:
    assert codec.decode(codec.encode(frame)) == frame


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_malformed(payload: bytes) -> None:
    """WIRE-8"""
    for read in (codec.decode, codec.decode_presence):
        try:
            read(payload)
        except MalformedMessage:
            continue


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_frame_is_a_frame_or_malformed(frame: Frame, data: st.DataObject) -> None:
    payload = bytearray(codec.encode(frame) or b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode(bytes(payload))
    except MalformedMessage:
        return


def test_a_payload_over_the_bound_is_refused_unparsed() -> None:
    """WIRE-1"""
    with pytest.raises(MalformedMessage, match="larger"):
        codec.decode(b"\0" * 100, max_bytes=99)


def test_unknown_fields_are_ignored_and_unknown_names_are_malformed() -> None:
    """WIRE-2"""
    assert codec.decode(b"\x08\x05\xfa\x07\x01x") == Frame(5)
    for bad in (
        pb.Frame(ask=pb.Ask(inventory=7)),
        pb.Frame(refused=pb.Refused(reason=99)),
        pb.Frame(acks=[pb.Ack(lane=5)]),
    ):
        with pytest.raises(MalformedMessage):
            codec.decode(bad.SerializeToString())


@pytest.mark.parametrize(
    "bad",
    [
        pb.Frame(states=pb.States(seq=1, keys=["a"], digests=[], bodies=[b""])),
        pb.Frame(states=pb.States(seq=1)),
        pb.Frame(states=pb.States(seq=0, keys=["a"], digests=[b""], bodies=[b""])),
        pb.Frame(messages=pb.Messages(seqs=[1, 2], kinds=["a", "b", "c"], bodies=[b"", b""])),
        pb.Frame(messages=pb.Messages()),
    ],
)
def test_columns_of_different_length_are_malformed(bad: pb.Frame) -> None:
    """WIRE-3"""
    with pytest.raises(MalformedMessage):
        codec.decode(bad.SerializeToString())


@pytest.mark.parametrize(("prev", "seqs"), [(5, [5]), (5, [7, 6]), (0, [0]), (0, [1, 1])])
def test_rows_that_do_not_grow_are_malformed(prev: int, seqs: list[int]) -> None:
    """WIRE-4"""
    bad = pb.Frame(messages=pb.Messages(prev=prev, seqs=seqs, kinds=["k"], bodies=[b""] * len(seqs)))
    with pytest.raises(MalformedMessage):
        codec.decode(bad.SerializeToString())


@pytest.mark.parametrize(
    "bad",
    [
        pb.Frame(ping=pb.Ping(held=b"short")),
        pb.Frame(welcome=pb.Welcome(cloud="c", statuses=b"x" * 17)),
        pb.Frame(answer=pb.Answer(digests=b"x" * 16)),
        pb.Frame(answer=pb.Answer(keys=["a"], key_digests=b"x" * 15)),
    ],
)
def test_digests_of_the_wrong_length_are_malformed(bad: pb.Frame) -> None:
    """WIRE-5"""
    with pytest.raises(MalformedMessage):
        codec.decode(bad.SerializeToString())


@given(st.integers(1, 50_000), st.integers(1_000, 20_000))
def test_a_batch_that_was_cut_is_joined_again(size: int, piece: int) -> None:
    """WIRE-6"""
    body = frames.Messages(4, [MessageRow(5, "history", b"x" * size)], "c")
    pieces = codec.cut(body, piece)
    assert codec.join([part.chunk for part in pieces]) == body
    assert all(len(part.chunk) <= piece and part.seq == 5 for part in pieces)


@pytest.mark.parametrize(
    "bad",
    [
        pb.Frame(piece=pb.Piece(seq=1, index=3, count=3, chunk=b"x")),
        pb.Frame(piece=pb.Piece(seq=1, index=0, count=65, chunk=b"x")),
        pb.Frame(piece=pb.Piece(seq=1, index=0, count=1)),
    ],
)
def test_a_piece_outside_its_whole_is_malformed(bad: pb.Frame) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode(bad.SerializeToString())


@pytest.mark.parametrize(
    "bad",
    [
        pb.Frame(states=pb.States(seq=1, keys=["k" * 513], digests=[b""], bodies=[b"x"])),
        pb.Frame(hello=pb.Hello(incarnation="i" * 65)),
        pb.Frame(hello=pb.Hello()),
        pb.Frame(hello=pb.Hello(incarnation="i", floor=5, last=4)),
        pb.Frame(hello=pb.Hello(incarnation="i", last=1 << 62)),
        pb.Frame(messages=pb.Messages(seqs=[1 << 62], kinds=["k"], bodies=[b""])),
        pb.Frame(messages=pb.Messages(seqs=[1], kinds=["k" * 65], bodies=[b""])),
        pb.Frame(hello=pb.Hello(incarnation="i", marks=[pb.Mark(lineage="c")] * 65)),
    ],
)
def test_names_and_numbers_are_bounded(bad: pb.Frame) -> None:
    """WIRE-7"""
    with pytest.raises(MalformedMessage):
        codec.decode(bad.SerializeToString())


def test_presence_reads_back_as_it_was() -> None:
    presence = frames.Presence(True, 1 << 60, 9)
    assert codec.decode_presence(codec.encode_presence(presence)) == presence


def test_generated_code_is_what_the_proto_files_say(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "proto.generate", str(tmp_path)], check=True, cwd=Path(generate.__file__).parents[1]
    )
    checked_in = Path(generate.__file__).parent / "gen"
    made = sorted(path.name for path in tmp_path.glob("*_pb2.py"))
    assert made
    assert {name: (tmp_path / name).read_text() for name in made} == {
        name: (checked_in / name).read_text() for name in made
    }

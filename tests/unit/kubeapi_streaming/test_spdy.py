"""SPDY/3.1 framing between two ends, cut anywhere, and against frames that no honest peer sends."""

import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.streaming import spdy_wire as wire
from kubeapi.streaming.spdy import Data, Gone, Opened, Pong, Replied, Reset, SpdyConnection, SpdyError


def pair(**options: bool) -> tuple[SpdyConnection, SpdyConnection]:
    return SpdyConnection(client=True, **options), SpdyConnection(client=False, **options)


def opened(client: SpdyConnection, server: SpdyConnection, *, fin: bool = False) -> int:
    stream = client.open({"streamType": "data"}, fin=fin)
    server.receive(client.take())
    server.reply(stream)
    client.receive(server.take())
    return stream


def test_the_dictionary_is_the_one_of_the_draft() -> None:
    assert (len(wire.DICTIONARY), zlib.adler32(wire.DICTIONARY)) == (1423, 0xE3C6A7C2)


def test_a_stream_opens_with_its_headers_and_is_answered() -> None:
    client, server = pair()
    stream = client.open({"streamType": "stdin", "Port": "80"})
    assert server.receive(client.take()) == [Opened(stream, {"streamtype": "stdin", "port": "80"}, fin=False)]
    server.reply(stream, {"a": "b"})
    assert client.receive(server.take()) == [Replied(stream, {"a": "b"}, fin=False)]


def test_later_header_blocks_use_what_earlier_ones_taught() -> None:
    packer, unpacker = wire.HeaderPacker(), wire.HeaderUnpacker()
    first, second = packer.pack({"requestid": "1"}), packer.pack({"requestid": "1"})
    assert len(second) < len(first)
    assert [unpacker.unpack(first), unpacker.unpack(second)] == [{"requestid": "1"}] * 2


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_bytes_survive_every_way_of_cutting_the_connection(sent: list[bytes], cuts: list[int]) -> None:
    client, server = pair()
    stream = client.open({"streamType": "data"})
    for data in sent:
        client.send(stream, data)
    client.send(stream, b"", fin=True)
    raw, events = client.take(), []
    for at in range(0, len(raw), max(cuts)):
        events += server.receive(raw[at : at + max(cuts)])
    pieces = [event for event in events if isinstance(event, Data)]
    assert b"".join(piece.data for piece in pieces) == b"".join(sent)
    assert [piece.fin for piece in pieces].index(True) == len(pieces) - 1


def test_a_half_close_leaves_the_other_direction_open() -> None:
    client, server = pair()
    stream = opened(client, server)
    client.send(stream, b"last", fin=True)
    assert server.receive(client.take()) == [Data(stream, b"last", fin=True)]
    server.send(stream, b"answer", fin=True)
    assert client.receive(server.take()) == [Data(stream, b"answer", fin=True)]
    assert (client.streams, server.streams) == ([], [])


def test_a_reset_ends_both_directions_and_what_was_on_its_way_is_ignored() -> None:
    client, server = pair()
    stream = opened(client, server)
    client.send(stream, b"on its way")
    server.reset(stream)
    assert client.receive(server.take()) == [Reset(stream, wire.CANCEL)]
    assert server.receive(client.take()) == []
    with pytest.raises(SpdyError):
        client.send(stream, b"more")


def test_pings_are_answered_by_the_other_end() -> None:
    client, server = pair()
    number = client.ping()
    assert server.receive(client.take()) == []
    assert client.receive(server.take()) == [Pong(number)]


def test_a_peer_that_keeps_no_windows_is_sent_everything() -> None:
    client, server = pair()
    stream = opened(client, server)
    client.send(stream, bytes(3 << 20))
    received = server.receive(client.take())
    assert sum(len(event.data) for event in received if isinstance(event, Data)) == 3 << 20


def test_a_peer_with_windows_gets_no_more_than_it_credited() -> None:
    client, server = pair(windows=True)
    stream = opened(client, server)
    assert client.sendable(stream) == 64 << 10
    client.send(stream, bytes(64 << 10))
    server.receive(client.take())
    assert client.sendable(stream) == 0
    server.consumed(stream, 40 << 10)
    client.receive(server.take())
    assert client.sendable(stream) == 40 << 10


def test_windows_of_a_peer_that_mentions_them_are_kept_from_then_on() -> None:
    client, server = pair()
    stream = opened(client, server)
    settings = wire.control_frame(wire.SETTINGS, 0, wire.pack_words((1, wire.INITIAL_WINDOW_SETTING, 1000)))
    client.receive(settings)
    assert client.sendable(stream) == 1000


def test_after_goaway_no_stream_is_opened() -> None:
    client, server = pair()
    stream = opened(client, server)
    server.goaway()
    assert client.receive(server.take()) == [Gone(stream, 0)]
    with pytest.raises(SpdyError):
        client.open({})


def test_more_streams_than_allowed_are_refused_one_by_one() -> None:
    client, server = SpdyConnection(client=True), SpdyConnection(client=False, max_streams=1)
    first, second = client.open({}), client.open({"a": "b"})
    assert [event.stream for event in server.receive(client.take()) if isinstance(event, Opened)] == [first]
    assert client.receive(server.take()) == [Reset(second, wire.REFUSED_STREAM)]


BOMB = zlib.compressobj(9, zdict=wire.DICTIONARY)
BLOCK = BOMB.compress(b"\0\0\0\1" + (1 << 24).to_bytes(4, "big") + bytes(1 << 24)) + BOMB.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02\x00\x01" + bytes(12),  # SPDY/2
        b"\x80\x03\x00\x01\x01\xff\xff\xff",  # a control frame of 16 MiB
        wire.control_frame(wire.SYN_STREAM, 0, b"\0\0\0\1"),  # cut short
        wire.control_frame(wire.SYN_STREAM, 0, wire.pack_words((2, 0)), b"\0\0", wire.HeaderPacker().pack({})),  # even
        wire.control_frame(wire.SYN_STREAM, 0, wire.pack_words((1, 0)), b"\0\0", b"no zlib"),
        wire.control_frame(wire.SYN_STREAM, 0, wire.pack_words((1, 0)), b"\0\0", BLOCK),
        wire.control_frame(wire.SETTINGS, 0, wire.pack_words((9,))),
    ],
)
def test_what_is_not_spdy_ends_the_connection(raw: bytes) -> None:
    with pytest.raises(SpdyError):
        SpdyConnection(client=False).receive(raw)


@given(st.binary(max_size=200))
def test_no_bytes_cause_anything_but_events_or_a_spdy_error(raw: bytes) -> None:
    server = SpdyConnection(client=False)
    with suppress(SpdyError):
        server.receive(raw)
    assert len(server.take()) <= 4096

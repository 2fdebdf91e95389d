"""RFC 6455 between two ends and against frames that no honest peer sends."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.streaming import websocket as ws
from kubeapi.streaming.websocket import Closed, Piece, Ponged, WebSocket, WebSocketError, accept_key, masked


def pair() -> tuple[WebSocket, WebSocket]:
    return WebSocket(client=True), WebSocket(client=False)


def client_frame(first: int, payload: bytes = b"", mask: bytes = b"\1\2\3\4") -> bytes:
    return bytes((first, 0x80 | len(payload))) + mask + masked(payload, mask)


def test_the_key_of_the_rfc_is_accepted_as_the_rfc_says() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.binary(max_size=70_000), st.integers(1, 5000), st.booleans())
def test_a_message_survives_every_way_of_cutting_the_connection(data: bytes, cut: int, to_server: bool) -> None:
    client, server = pair()
    sender, reader = (client, server) if to_server else (server, client)
    sender.send(data)
    raw = sender.take()
    pieces = [event for at in range(0, len(raw), cut) for event in reader.receive(raw[at : at + cut])]
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert b"".join(piece[0] for piece in pieces) == data  # type: ignore[misc]
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)  # type: ignore[union-attr]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]  # type: ignore[union-attr]


def test_a_large_message_goes_in_frames_and_is_never_held_whole() -> None:
    client, server = pair()
    client.send(bytes(3 << 20))
    raw, seen = client.take(), 0
    for at in range(0, len(raw), 1 << 16):
        seen += sum(len(event.data) for event in server.receive(raw[at : at + (1 << 16)]) if isinstance(event, Piece))
        assert len(server._buffer) < 64
    assert seen == 3 << 20


def test_a_ping_between_two_fragments_is_answered_at_once() -> None:
    server = WebSocket(client=False)
    raw = client_frame(0x02, b"ab") + client_frame(0x89, b"hello") + client_frame(0x80, b"c")
    assert server.receive(raw) == [Piece(b"ab", True, False, False), Piece(b"c", False, True, False)]
    assert WebSocket(client=True).receive(server.take()) == [Ponged(b"hello")]


def test_a_close_is_answered_and_ends_the_reading() -> None:
    client, server = pair()
    client.close(1000, "bye")
    assert server.receive(client.take() + b"what follows") == [Closed(1000, "bye")]
    assert client.receive(server.take()) == [Closed(1000, "")]
    server.send(b"too late")
    assert server.take() == b""


def test_text_is_checked_across_fragments() -> None:
    server = WebSocket(client=False)
    euro = "€".encode()
    assert len(server.receive(client_frame(0x01, euro[:1]) + client_frame(0x80, euro[1:]))) == 2
    with pytest.raises(WebSocketError) as caught:
        server.receive(client_frame(0x81, euro[:1]))
    assert caught.value.status == ws.NOT_UTF8


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\x01a",  # not masked
        client_frame(0xC2),  # a reserved bit
        client_frame(0x83),  # an unknown opcode
        client_frame(0x80),  # continues nothing
        client_frame(0x02) + client_frame(0x82),  # begins inside another
        client_frame(0x09),  # a control frame in parts
        b"\x89\xfe\x00\x7e",  # a control frame of 126 bytes
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # a negative length
        client_frame(0x88, b"x"),
        client_frame(0x88, b"\x03\xed"),  # 1005 is never sent
    ],
)
def test_what_breaks_the_rules_is_answered_with_a_close(raw: bytes) -> None:
    server = WebSocket(client=False)
    with pytest.raises(WebSocketError) as caught:
        server.receive(raw)
    assert caught.value.status == ws.PROTOCOL_ERROR
    assert WebSocket(client=True).receive(server.take())[0].status == ws.PROTOCOL_ERROR  # type: ignore[union-attr]


@given(st.binary(max_size=200))
def test_no_bytes_cause_anything_but_events_or_a_websocket_error(raw: bytes) -> None:
    server = WebSocket(client=False)
    with suppress(WebSocketError):
        server.receive(raw)
    assert len(server.take()) <= 4096

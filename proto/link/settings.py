"""Limits and times of the link, with their reasons. Both ends must agree on nothing here but the frame bound."""

from typing import Annotated

from msgspec import Meta, Struct


class LinkSettings(Struct, frozen=True, kw_only=True):
    """Settings of one end of the link; the daemons nest this in their own settings."""

    keep_alive_s: Annotated[
        float, Meta(description="seconds of silence before a ping; 1.5 times this ends a session")
    ] = 20.0
    reconnect_base_s: Annotated[float, Meta(description="first reconnect delay ceiling, full jitter")] = 0.25
    reconnect_cap_s: Annotated[float, Meta(description="largest reconnect delay ceiling")] = 3.0
    hello_base_s: Annotated[float, Meta(description="first delay before a hello without answer is repeated")] = 1.0
    hello_cap_s: Annotated[float, Meta(description="largest delay between hellos while the cloud is silent")] = 10.0
    fenced_retry_s: Annotated[float, Meta(description="how often a fenced edge asks again")] = 60.0
    resend_base_s: Annotated[float, Meta(description="least time before an unacknowledged frame is sent again")] = 1.0
    resend_cap_s: Annotated[float, Meta(description="largest time before an unacknowledged frame is sent again")] = 15.0
    window_frames: Annotated[int, Meta(description="frames in flight")] = 64
    window_bytes: Annotated[int, Meta(description="bytes in flight")] = 4 << 20
    frame_bytes: Annotated[int, Meta(description="largest frame sent or accepted")] = 256 << 10
    batch_bytes: Annotated[
        int, Meta(description="a batch of rows closes at this size, so a slow line still shows life")
    ] = 32 << 10
    batch_rows: Annotated[int, Meta(description="a batch closes at this many rows")] = 512
    object_bytes: Annotated[int, Meta(description="largest object or message body, sent in pieces")] = 2 << 20
    anti_entropy_s: Annotated[
        float, Meta(description="how often the digests of both ends are compared while connected")
    ] = 60.0
    coalesce_s: Annotated[
        float, Meta(description="wait after a commit before reading the outbox, so that rows share a frame")
    ] = 0.001
    message_quota_bytes: Annotated[
        int, Meta(description="waiting message bodies; beyond it the oldest are dropped, with a gap row")
    ] = 1 << 30
    message_quota_age_s: Annotated[
        int, Meta(description="running time after which waiting messages are dropped, with a gap row; 0 = never")
    ] = 30 * 86400
    reserve_bytes: Annotated[
        int, Meta(description="disk space held back so that a full disk can still drain; 0 = none")
    ] = 16 << 20
    command_quota_bytes: Annotated[
        int, Meta(description="waiting message bodies per node in the cloud; beyond it new ones are refused")
    ] = 64 << 20
    hello_concurrency: Annotated[
        int, Meta(description="hellos that the cloud works on at once; the others wait their turn")
    ] = 32
    max_nodes: Annotated[int, Meta(description="nodes that one cloudcore serves; more are told to wait")] = 10_000
    max_streams: Annotated[
        int, Meta(ge=1, le=1024, description="byte streams (logs, exec, port-forward) of one node at once")
    ] = 128
    stream_window_bytes: Annotated[
        int, Meta(ge=64 << 10, description="what one stream may send before it is read at the other end")
    ] = 256 << 10
    stream_open_s: Annotated[float, Meta(ge=2, description="how long a node may take to open a stream")] = 30.0

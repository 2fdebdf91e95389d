"""The machine of byte streams: two ends over a line that a seed makes slow, lossy and disorderly."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from proto.kit.channels import STDIN, STDOUT, Chunk
from proto.stream import CHUNK_BYTES, COST_BYTES, GAP, LOST_S, MAX_FINISHES, PROBE_S, QUEUE_BYTES, Limits, Mux, Stream
from proto.stream_frames import Accepted, Close, Finish, Open, Portion, Refused, StreamAcks, StreamFrame
from proto.stream_pace import LEAST_BYTES, MOST_BYTES, START_BYTES, Pace

LIMITS = Limits(max_streams=8, window_bytes=256 << 10, open_s=30.0)


@dataclass
class Line:
    """A cloud and an edge, and what is between them. ``lose``: chance that a frame is lost."""

    seed: int = 0
    lose: float = 0.0
    now_s: float = 100.0
    limits: Limits = LIMITS
    cloud: Mux = field(init=False)
    edge: Mux = field(init=False)
    opened: list[Stream] = field(default_factory=list)
    lost: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.cloud, self.edge = Mux(7, self.limits, serves=False), Mux(7, self.limits, serves=True)
        self.way: dict[bool, deque[tuple[int, StreamFrame] | StreamAcks]] = {True: deque(), False: deque()}

    def step(self, *, accept: bool = True) -> None:
        """Send what may leave and deliver all of it, in order, 10 ms later."""
        for down, end in ((True, self.cloud), (False, self.edge)):
            self.way[down] += end.pull(self.now_s)
            acks = end.acks()
            if acks is not None:
                self.way[down].append(acks)
        self.now_s += 0.01
        for down, end in ((True, self.edge), (False, self.cloud)):
            while self.way[down]:
                self.deliver(end, self.way[down].popleft(), accept=accept)

    def deliver(self, end: Mux, item: tuple[int, StreamFrame] | StreamAcks, *, accept: bool = True) -> None:
        if self.rng.random() < self.lose:
            self.lost += 1
        elif isinstance(item, StreamAcks):
            end.receive_acks(item, self.now_s)
        else:
            stream = end.receive(*item, self.now_s)
            if stream is not None:
                self.opened.append(stream)
                if accept:
                    end.accept(stream)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            self.now_s += 0.5
            self.cloud.tick(self.now_s)
            self.edge.tick(self.now_s)
            self.step()

    def stream(self, number: int = 5) -> tuple[Stream, Stream]:
        """An accepted stream: the cloud's end and the edge's."""
        near = self.cloud.open(number, b"{}", self.now_s)
        self.steps(2)
        return near, self.opened[-1]


def drain(mux: Mux, stream: Stream) -> bytes:
    parts = []
    while (chunk := mux.read(stream)) is not None:
        parts.append(chunk.data)
    return b"".join(parts)


def fill(mux: Mux, stream: Stream, portions: int) -> None:
    for _ in range(portions):
        mux.write(stream, STDOUT, b"x" * CHUNK_BYTES)


def test_an_opening_is_accepted_with_the_call_that_it_carries() -> None:
    """STREAM-3"""
    line = Line()
    near = line.cloud.open(5, b'{"kind":"ping"}', line.now_s)
    line.step()
    assert line.opened[0].call == b'{"kind":"ping"}'
    line.steps(2)
    assert near.accepted
    assert not near.outstanding
    assert not line.opened[0].outstanding


def test_a_refusal_ends_the_stream_at_both_ends() -> None:
    """STREAM-3"""
    line = Line()
    near = line.cloud.open(5, b"{}", line.now_s)
    line.step(accept=False)
    line.edge.refuse(line.opened[0], Refused(404, "NotFound", "no such pod"))
    line.steps(3)
    assert near.refusal == Refused(404, "NotFound", "no such pod")
    assert not near.accepted
    assert line.cloud.streams == line.edge.streams == {}


def test_what_is_written_before_an_orderly_close_arrives_before_the_end() -> None:
    """STREAM-13"""
    line = Line()
    near, far = line.stream()
    fill(line.edge, far, 3)
    line.edge.finish(far, STDOUT)
    line.edge.close(far, "")
    line.steps(4)
    assert drain(line.cloud, near) == b"x" * CHUNK_BYTES * 3
    assert near.ended == ""
    assert line.cloud.streams == line.edge.streams == {}


def test_a_close_with_an_error_overtakes_what_waits() -> None:
    """STREAM-13"""
    line = Line()
    near, far = line.stream()
    fill(line.edge, far, 100)
    line.edge.close(far, "the runtime went away")
    line.steps(4)
    assert near.ended == "the runtime went away"
    assert drain(line.cloud, near) == b""
    assert line.cloud.pace.in_flight_bytes == line.edge.pace.in_flight_bytes == 0


def test_a_stream_whose_reader_sleeps_stops_at_its_window_and_goes_on_when_it_wakes() -> None:
    """STREAM-5"""
    line = Line()
    near, far = line.stream()
    fill(line.edge, far, 40)
    line.steps(60)
    assert near.received_bytes == LIMITS.window_bytes
    got = 0
    for _ in range(60):
        got += len(drain(line.cloud, near))
        line.step()
    assert got == 40 * CHUNK_BYTES


def test_a_sleeping_reader_does_not_stop_another_stream() -> None:
    """STREAM-5"""
    line = Line()
    _, asleep = line.stream(5)
    near, awake = line.stream(6)
    fill(line.edge, asleep, 100)
    fill(line.edge, awake, 20)
    got = b""
    for _ in range(60):
        line.step()
        got += drain(line.cloud, near)
    assert len(got) == 20 * CHUNK_BYTES


def test_streams_take_turns_a_portion_each() -> None:
    """STREAM-6"""
    line = Line()
    ends = [line.stream(number)[1] for number in (1, 2, 3)]
    for far in ends:
        fill(line.edge, far, 10)
    order = [number for number, frame in line.edge.pull(line.now_s) if isinstance(frame.body, Portion)]
    assert order == [1, 2, 3, 1]


def test_no_more_than_the_window_of_all_streams_is_on_the_way() -> None:
    """STREAM-7"""
    line = Line()
    for far in [line.stream(number)[1] for number in (1, 2, 3, 4)]:
        fill(line.edge, far, 10)
    line.edge.pull(line.now_s)
    assert line.edge.pull(line.now_s) == []
    assert START_BYTES <= line.edge.pace.in_flight_bytes < START_BYTES + CHUNK_BYTES + COST_BYTES


def test_small_writes_that_wait_share_a_frame() -> None:
    line = Line()
    near, far = line.stream()
    for _ in range(1000):
        line.edge.write(far, STDOUT, b"a line\n")
    frames = line.edge.pull(line.now_s)
    assert [len(frame.body.content) for _, frame in frames if isinstance(frame.body, Portion)] == [7000]
    assert far.queued_bytes == 0
    assert near.ended is None


def test_the_window_grows_while_nothing_waits_and_shrinks_when_the_way_gets_long() -> None:
    """STREAM-7"""
    pace = Pace()
    now_s = 0.0
    for _ in range(2000):
        pace.left(pace.window_bytes)
        now_s += 0.02
        pace.arrived(pace.window_bytes, 0.02, now_s)
    assert pace.window_bytes == MOST_BYTES
    for _ in range(20):
        pace.left(pace.window_bytes)
        now_s += 0.3
        pace.arrived(pace.window_bytes, 0.2, now_s)
    assert pace.window_bytes == LEAST_BYTES
    assert pace.in_flight_bytes == 0


@pytest.mark.parametrize("fault", ["lost", "doubled", "reordered"])
def test_a_fault_of_one_frame_breaks_its_stream_at_both_ends_and_no_other(fault: str) -> None:
    """STREAM-4"""
    line = Line()
    near, far = line.stream(5)
    other, far_other = line.stream(6)
    for text in (b"1", b"2", b"3"):
        line.edge.write(far, STDOUT, text)
        line.edge.write(far_other, STDOUT, text)
        for item in line.edge.pull(line.now_s):
            line.way[False].append(item)
    frames = [item for item in line.way[False] if not isinstance(item, StreamAcks) and item[0] == 5]
    others = [item for item in line.way[False] if not isinstance(item, StreamAcks) and item[0] == 6]
    changed = {"lost": [frames[0], frames[2]], "doubled": [frames[0], *frames], "reordered": frames[::-1]}[fault]
    line.way[False] = deque([*changed, *others])
    line.steps(4)
    assert (near.ended, far.ended) == (GAP, GAP)
    assert drain(line.cloud, other) == b"123"
    assert (other.ended, far_other.ended) == (None, None)


@pytest.mark.parametrize("seed", range(40))
def test_on_a_lossy_line_a_reader_gets_everything_or_a_beginning_and_an_error(seed: int) -> None:
    """STREAM-4, STREAM-8"""
    line = Line(seed=seed)
    pairs = [line.stream(number) for number in range(1, 7)]
    line.lose = 0.02
    texts = {far.number: random.Random(far.number).randbytes(40_000) for _, far in pairs}
    for _, far in pairs:
        for start in range(0, 40_000, 5_000):
            line.edge.write(far, STDOUT, texts[far.number][start : start + 5_000])
        line.edge.close(far, "")
    got = {near.number: b"" for near, _ in pairs}
    for _ in range(200):
        line.pass_time(0.5)
        for near, _ in pairs:
            got[near.number] += drain(line.cloud, near)
    for near, _ in pairs:
        assert near.ended is not None
        assert texts[near.number].startswith(got[near.number])
        assert near.ended or got[near.number] == texts[near.number]
    line.lose = 0.0
    line.pass_time(2 * LOST_S + 1)
    assert line.cloud.streams == line.edge.streams == {}
    assert line.cloud.pace.in_flight_bytes == line.edge.pace.in_flight_bytes == 0


def test_what_costs_no_credit_is_not_kept_without_bound() -> None:  # STREAM-5
    line = Line()
    stream = line.cloud.open(1, b"call", line.now_s)
    line.steps(2)
    for seq in range(2, 200):
        body = Portion(STDOUT, b"") if seq % 2 else Finish(STDOUT)
        line.cloud.receive(1, StreamFrame(7, seq, body), line.now_s)

    assert stream.ended
    assert len(stream.inbox) <= MAX_FINISHES


def test_an_end_that_is_lost_is_told_again_and_never_silence() -> None:
    """STREAM-8"""
    line = Line()
    near, far = line.stream()
    line.edge.close(far, "")
    line.lose = 1.0
    line.step()
    line.lose = 0.0
    line.pass_time(PROBE_S * 2)
    early = near.ended
    line.pass_time(LOST_S)
    assert early is None
    assert "confirmed nothing" in str(near.ended)
    line.pass_time(PROBE_S * 2)
    assert line.edge.streams == {}


def test_a_lost_acknowledgement_breaks_nothing() -> None:
    """STREAM-8"""
    line = Line()
    near, far = line.stream()
    line.edge.write(far, STDOUT, b"once")
    line.way[False] += line.edge.pull(line.now_s)
    line.deliver(line.cloud, line.way[False].popleft())
    assert line.cloud.acks() is not None  # and is lost
    line.pass_time(LOST_S * 2)
    assert drain(line.cloud, near) == b"once"
    assert (near.ended, far.ended) == (None, None)
    assert not far.outstanding


def test_an_opening_that_nobody_answers_ends() -> None:
    """STREAM-9"""
    line = Line()
    near = line.cloud.open(5, b"{}", line.now_s)
    for _ in range(62):
        line.now_s += 0.5
        line.cloud.tick(line.now_s)
        line.step(accept=False)
    assert near.ended == "the node did not answer within 30 s"
    assert line.opened[0].ended == near.ended


def test_a_session_that_ends_ends_every_stream_with_its_reason() -> None:
    """STREAM-10"""
    line = Line()
    near, far = line.stream()
    told: list[str] = []
    near.changed = lambda: told.append("near")
    line.cloud.end("the link was lost")
    assert near.ended == "the link was lost"
    assert told == ["near"]
    assert line.cloud.streams == {}
    assert far.ended is None


def test_a_cloud_that_forgot_its_streams_can_say_so() -> None:
    """STREAM-10"""
    line = Line()
    _, far = line.stream()
    line.edge.receive_acks(StreamAcks(7, reset=True), line.now_s)
    assert far.ended == "the cloud lost its connection to the broker"
    assert line.edge.streams == {}


def test_more_streams_than_the_bound_are_refused_by_the_edge_itself() -> None:
    """STREAM-11"""
    line = Line(limits=Limits(2, 256 << 10, 30.0))
    near = [line.cloud.open(number, b"{}", line.now_s) for number in (1, 2, 3)]
    assert line.cloud.full
    line.steps(4)
    assert [stream.accepted for stream in near] == [True, True, False]
    assert near[2].refusal is not None
    assert near[2].refusal.status == 429


def test_a_frame_of_an_unknown_stream_is_answered_with_its_end() -> None:
    """STREAM-13"""
    line = Line()
    near, _ = line.stream()
    line.edge.streams.clear()
    line.cloud.write(near, STDIN, b"x")
    line.steps(3)
    assert near.ended is not None
    assert "does not know this stream" in near.ended


def test_a_peer_that_ignores_its_credit_is_cut_off() -> None:
    """STREAM-5"""
    line = Line()
    near, _ = line.stream()
    for seq in range(2, 20):
        line.cloud.receive(5, StreamFrame(7, seq, Portion(STDOUT, b"x" * CHUNK_BYTES)), line.now_s)
    assert near.ended == "the other side sent more than it was granted"
    assert near.received_bytes <= LIMITS.window_bytes + CHUNK_BYTES


def test_what_has_no_place_breaks_the_stream_that_it_came_on() -> None:
    line = Line()
    near, far = line.stream()
    line.cloud.receive(5, StreamFrame(7, near.expected, Open(b"{}", 0)), line.now_s)
    line.edge.receive(5, StreamFrame(7, far.expected, Accepted(1)), line.now_s)
    assert near.ended == far.ended == "the other side sent what has no place here"


def test_only_the_edge_takes_openings() -> None:
    line = Line()
    assert line.cloud.receive(9, StreamFrame(7, 1, Open(b"{}", 0)), line.now_s) is None
    assert line.cloud.streams == {}


def test_answers_to_unknown_streams_are_bounded() -> None:
    line = Line()
    for number in range(1, 5000):
        line.edge.receive(number, StreamFrame(7, 3, Portion(STDOUT, b"x")), line.now_s)
    answers = line.edge.pull(line.now_s)
    assert len(answers) == 256
    assert all(isinstance(frame.body, Close) for _, frame in answers)


def test_a_writer_is_woken_when_its_queue_has_room_again() -> None:
    line = Line()
    _, far = line.stream()
    fill(line.edge, far, QUEUE_BYTES // CHUNK_BYTES)
    woken: list[int] = []
    far.changed = lambda: woken.append(far.queued_bytes)
    line.edge.pull(line.now_s)
    assert woken[0] < QUEUE_BYTES


def test_chunks_keep_their_channels() -> None:
    line = Line()
    near, far = line.stream()
    for channel, text in ((STDOUT, b"a"), (2, b"b"), (STDOUT, b"c")):
        line.edge.write(far, channel, text)
    line.steps(2)
    assert [line.cloud.read(near) for _ in range(3)] == [Chunk(STDOUT, b"a"), Chunk(2, b"b"), Chunk(STDOUT, b"c")]

"""The edge's link machine: greets, adopts the granted epoch, then exchanges. Pure: ``now_s`` and randomness by the door."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct

from proto import digest
from proto.exchange import Exchange, Feed
from proto.frames import (
    Frame,
    Hello,
    Inventory,
    Mark,
    Messages,
    Ping,
    Pong,
    Presence,
    Reason,
    Refused,
    Welcome,
)
from proto.kit.backoff import Backoff, Rng
from proto.link.settings import LinkSettings
from proto.session import (
    EDGE_TABLE,
    Adopt,
    Announce,
    Drop,
    EdgeEvent,
    EdgeState,
    Effect,
    Ended,
    IllegalEvent,
    Opened,
    Send,
)
from proto.window import Limits

SILENCE_RATIO = 1.5  # of the keep-alive: a session this long without a frame is over (LINK-11)
REPEAT_RATIO = 0.125  # of the keep-alive: an unanswered ping is repeated this often
HELLO_LEAST_S = 0.5  # an answer takes a round trip and a commit
NONCES = 1 << 63
STALE_SPREAD_S = 0.5  # a restarted cloud tells everybody at once; they must not all answer at once


class Identity(Struct, frozen=True):
    """What this disk durably knows of itself."""

    incarnation: str
    epoch: int = 0
    cloud: str = ""


class Positions(NamedTuple):
    """Where the durable lanes stand, for a hello."""

    floor: int  # messages up to here are no longer held
    last: int  # newest message
    marks: tuple[Mark, ...]  # applied from the cloud


class EdgeFeed(Feed, Protocol):
    """The edge's door: a Feed, and where its lanes stand."""

    def positions(self) -> Positions: ...

    def has_states(self) -> bool:
        """Whether a status waits to be sent."""
        ...

    def begin(self, mark: int) -> None:
        """Start a session whose messages continue after ``mark``; all waiting statuses are dirty again."""
        ...


def limits_of(settings: LinkSettings) -> Limits:
    """Return the window's limits out of the link's settings."""
    return Limits(
        frames=settings.window_frames,
        bytes=settings.window_bytes,
        frame_bytes=settings.frame_bytes,
        batch_bytes=settings.batch_bytes,
        batch_rows=settings.batch_rows,
        resend_base_s=settings.resend_base_s,
        resend_cap_s=settings.resend_cap_s,
    )


class EdgeSession:
    """One node's session with the cloud over one MQTT connection at a time."""

    def __init__(self, identity: Identity, feed: EdgeFeed, settings: LinkSettings, rng: Rng) -> None:
        self.identity = identity
        self.feed = feed
        self.settings = settings
        self.rng = rng
        self.state = EdgeState.DOWN
        self.exchange: Exchange | None = None
        self.connection = 0
        self.fenced_text = ""
        self.stale_frames = 0
        self._nonce = 0
        self._attempt = 0
        self._welcome: Welcome | None = None
        self._granted = self._tag = 0
        self._hello_due_s: float | None = None
        self._heard_s = 0.0
        self._ping_due_s = 0.0
        self._compare_due_s = 0.0
        self._recheck = False
        self._hello_backoff = Backoff(settings.hello_base_s, settings.hello_cap_s, rng)

    # inputs

    def connected(self, connection: int, now_s: float) -> list[Effect]:
        """An MQTT connection is up; ``connection`` is the random number that its will names."""
        self._move(EdgeEvent.CONNECTED)
        self.connection = connection
        self._heard_s = now_s
        self._hello_backoff.reset()
        return [Announce(Presence(True, connection, self.identity.epoch)), *self._greet(now_s)]

    def lost(self) -> list[Effect]:
        """The MQTT connection is gone."""
        effects = self._end("connection lost")
        self._move(EdgeEvent.LOST)
        self._hello_due_s = None
        return effects

    def broker_answered(self, now_s: float) -> None:
        """A PUBACK came while nobody answers the hello: the broker is alive, so the connection is kept."""
        if self.state is EdgeState.GREETING:
            self._heard_s = now_s

    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        """Take a frame from the cloud; raises MalformedMessage."""
        body = frame.body
        if isinstance(body, Welcome):
            return self._welcomed(frame, body, now_s)
        if isinstance(body, Refused):
            return self._refused(frame.epoch, body, now_s)
        if self.exchange is None or (frame.epoch, frame.tag) != (self.exchange.epoch, self.exchange.tag):
            self.stale_frames += 1  # LINK-5
            return []
        self._heard_s = now_s
        self._ping_due_s = now_s + self.settings.keep_alive_s
        effects = self.exchange.receive(frame, now_s)
        if isinstance(body, Pong) and body.statuses:
            effects += self._compare(body.statuses, now_s)
        return [*effects, *self._pump(now_s)]

    def adopted(self, now_s: float) -> list[Effect]:
        """The granted epoch and positions are on disk: the session is live (LINK-4)."""
        welcome = self._welcome
        if self.state is not EdgeState.ADOPTING or welcome is None:
            return []
        self._move(EdgeEvent.ADOPTED)
        self.identity = Identity(self.identity.incarnation, self._granted, welcome.cloud)
        self.feed.begin(welcome.mark)
        limits = limits_of(self.settings)
        self.exchange = Exchange(self._granted, self._tag, Inventory.STATUSES, self.feed, limits, self.rng)
        self.exchange.start({mark.lineage: mark.seq for mark in self.feed.positions().marks})
        self._heard_s = now_s
        self._compare_due_s = now_s + self.settings.anti_entropy_s
        effects: list[Effect] = [
            Opened(self._granted),
            Announce(Presence(True, self.connection, self._granted)),
            Send(self.exchange.frame(Ping()), 1),
        ]
        self._ping_due_s = now_s + self.settings.keep_alive_s * REPEAT_RATIO
        if welcome.statuses:
            effects += self._compare(welcome.statuses, now_s)
        return [*effects, *self._pump(now_s)]

    def committed(self, epoch: int, state_seq: int, messages: list[Messages], now_s: float) -> list[Effect]:
        """What a Deliver of ``epoch`` carried is on disk."""
        if self.exchange is None or self.exchange.epoch != epoch:
            return []
        self.exchange.committed(state_seq, messages)
        return self._pump(now_s)

    def wake(self, now_s: float) -> list[Effect]:
        """There may be something new to send."""
        return self._pump(now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Do what is due; call at ``due_s`` (earlier does no harm)."""
        if self.state is EdgeState.DOWN:
            return []
        if now_s - self._heard_s >= SILENCE_RATIO * self.settings.keep_alive_s:
            self._heard_s = now_s
            return [*self._end("silent"), Drop("no answer in 1.5 keep-alives")]
        if self._hello_due_s is not None and now_s >= self._hello_due_s:
            return self._greet(now_s)
        if self.exchange is None:
            return []
        effects = self.exchange.tick(now_s)
        if self._recheck and self.exchange.idle and not self.feed.has_states():
            self._recheck = False
            self._compare_due_s = self._ping_due_s = now_s
        if now_s >= self._ping_due_s or now_s >= self._compare_due_s:
            effects.append(self._ping(now_s))
        return effects

    def due_s(self) -> float | None:
        """Return when ``tick`` has something to do."""
        if self.state is EdgeState.DOWN:
            return None
        times = [self._heard_s + SILENCE_RATIO * self.settings.keep_alive_s]
        if self._hello_due_s is not None:
            times.append(self._hello_due_s)
        if self.exchange is not None:
            times += [self._ping_due_s, self._compare_due_s]
            due = self.exchange.due_s()
            if due is not None:
                times.append(due)
        return min(times)

    # inside

    def _move(self, event: EdgeEvent) -> None:
        after = EDGE_TABLE.get((self.state, event))
        if after is None:
            raise IllegalEvent(f"{event.value} while {self.state.value}")
        self.state = after

    def _greet(self, now_s: float) -> list[Effect]:
        if self._attempt == 0:
            self._nonce = self.rng.randrange(1, NONCES)
        self._attempt += 1
        self._hello_due_s = now_s + HELLO_LEAST_S + self._hello_backoff.next_s()
        where = self.feed.positions()
        hello = Hello(
            connection=self.connection,
            nonce=self._nonce,
            attempt=self._attempt,
            incarnation=self.identity.incarnation,
            epoch=self.identity.epoch,
            cloud=self.identity.cloud,
            floor=where.floor,
            last=where.last,
            marks=where.marks,
            held=digest.root(self.feed.held()),
            keep_alive_ms=int(self.settings.keep_alive_s * 1000),
        )
        return [Send(Frame(0, hello), 1)]

    def _welcomed(self, frame: Frame, welcome: Welcome, now_s: float) -> list[Effect]:
        epoch = frame.epoch
        if welcome.nonce != self._nonce or self.state is not EdgeState.GREETING:
            self.stale_frames += 1
            return []
        self._heard_s = now_s
        if epoch <= self.identity.epoch or welcome.mark > self.feed.positions().last:
            return self._fence("the cloud knows more of this node than this disk does")  # LINK-8
        self._move(EdgeEvent.WELCOMED)
        self._welcome, self._granted, self._tag = welcome, epoch, frame.tag
        self._hello_due_s, self._attempt, self.fenced_text = None, 0, ""
        return [Adopt(epoch, welcome)]

    def _refused(self, epoch: int, refused: Refused, now_s: float) -> list[Effect]:
        spread_s = max(STALE_SPREAD_S, refused.retry_after_ms / 1000.0)
        if refused.nonce and refused.nonce == self._nonce and self.state is EdgeState.GREETING:
            self._heard_s = now_s
            if refused.reason is Reason.FENCED:
                return self._fence(refused.text)
            self._hello_due_s = now_s + spread_s * (1.0 - self.rng.random())
        elif not refused.nonce and self.exchange is not None and epoch == self.exchange.epoch:
            effects = self._end(refused.text or "the cloud does not know this session")
            self._move(EdgeEvent.STALE)
            self._heard_s = now_s
            self._hello_due_s = now_s + spread_s * (1.0 - self.rng.random())
            return effects
        elif not refused.nonce and self.state is EdgeState.GREETING and self._hello_due_s is not None:
            self._hello_due_s = min(self._hello_due_s, now_s + spread_s * (1.0 - self.rng.random()))
        return []

    def _fence(self, text: str) -> list[Effect]:
        """Told to join again: leave, so that the right machine is not taken over again and again (LINK-10)."""
        self.fenced_text = text
        self._move(EdgeEvent.REFUSED)
        self._hello_due_s = None
        pause_s = self.settings.fenced_retry_s * (0.5 + self.rng.random())
        return [Drop(text, pause_s)]

    def _end(self, reason: str) -> list[Effect]:
        self._attempt = 0
        self._welcome = None
        self._recheck = False
        if self.exchange is None:
            return []
        epoch, self.exchange = self.exchange.epoch, None
        return [Ended(epoch, reason)]

    def _compare(self, root: bytes, now_s: float) -> list[Effect]:
        assert self.exchange is not None
        if not self.exchange.idle or self.feed.has_states():
            self._recheck = True  # what is on its way would look like a difference
            return []
        return self.exchange.compare(root, now_s)

    def _ping(self, now_s: float) -> Effect:
        assert self.exchange is not None
        self._ping_due_s = now_s + self.settings.keep_alive_s * REPEAT_RATIO
        held = b""
        if now_s >= self._compare_due_s:
            self._compare_due_s = now_s + self.settings.anti_entropy_s
            held = digest.root(self.feed.held())
        return Send(self.exchange.frame(Ping(held)), 0)

    def _pump(self, now_s: float) -> list[Effect]:
        return self.exchange.pump(now_s) if self.exchange is not None else []


def marks_of(marks: Mapping[str, int]) -> tuple[Mark, ...]:
    """Return positions as a hello carries them."""
    return tuple(Mark(lineage, seq) for lineage, seq in marks.items())

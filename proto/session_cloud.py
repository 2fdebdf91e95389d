"""The cloud's link machine, one per node: judges hellos, confirms epochs, then exchanges. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

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
from proto.kit.backoff import Rng
from proto.link.settings import LinkSettings
from proto.session import (
    CLOUD_TABLE,
    Alarm,
    CloudEvent,
    CloudState,
    Confirm,
    Effect,
    Ended,
    IllegalEvent,
    Judge,
    Opened,
    Send,
)
from proto.session_edge import SILENCE_RATIO, limits_of

MIN_KEEP_ALIVE_S, MAX_KEEP_ALIVE_S = 1.0, 600.0  # what a hello may ask of this end
MAX_BUFFERED = 128  # frames that wait for the confirmation of their epoch; a window is smaller
STALE_PERIOD_S = 1.0  # a stream of old frames gets one answer a second
NONCES_KEPT = 8  # greetings remembered, so that a late copy of one does not end the session it made
TAGS = 1 << 32
TEXT = "say hello again"


class CloudFeed(Feed, Protocol):
    """The cloud's door for one node."""

    def begin(self) -> None:
        """Start a session: nothing is dirty, messages begin with the oldest waiting row."""
        ...


class CloudSession:
    """One node as this cloud serves it."""

    def __init__(self, node: str, cloud: str, feed: CloudFeed, settings: LinkSettings, rng: Rng) -> None:
        self.node = node
        self.cloud = cloud  # this cloud's incarnation
        self.feed = feed
        self.settings = settings
        self.rng = rng
        self.state = CloudState.IDLE
        self.epoch = self.tag = 0
        self.incarnation = ""
        self.connection = 0
        self.exchange: Exchange | None = None
        self.heard_s = 0.0
        self.stale_frames = 0
        self.spread_s = 0.0  # over how long edges that are asked to say hello again shall spread
        self._hello: Hello | None = None  # the one that made the present session
        self._judging: Hello | None = None
        self._welcome: Welcome | None = None
        self._nonces: list[int] = []
        self._buffer: list[Frame] = []
        self._stale_told_s = float("-inf")
        self._keep_alive_s = settings.keep_alive_s

    # inputs

    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        """Take a frame of the node; raises MalformedMessage."""
        if isinstance(frame.body, Hello):
            return self._greeted(frame.body, now_s)
        if self.state is CloudState.IDLE or (frame.epoch, frame.tag) != (self.epoch, self.tag):
            self.stale_frames += 1
            return self._stale(frame.epoch, now_s)  # LINK-5
        self.heard_s = now_s
        if self.state is CloudState.LIVE:
            return self._live(frame, now_s)
        if len(self._buffer) < MAX_BUFFERED:
            self._buffer.append(frame)
        if self.state is CloudState.CONFIRMING:
            return []
        self._move(CloudEvent.FIRST_FRAME)
        return [Confirm(self.incarnation, self.epoch)]

    def granted(
        self, hello: Hello, epoch: int, mark: int, bases: Sequence[Mark], statuses: bytes, now_s: float
    ) -> list[Effect]:
        """The epoch for ``hello`` is on disk; it ends any earlier session of the node (LINK-3)."""
        if self._judging is not hello:
            return []
        effects = self._end("taken over by a newer session")
        self._judging = None
        self._move(CloudEvent.GRANTED)
        self._hello, self.epoch, self.incarnation, self.connection = hello, epoch, hello.incarnation, hello.connection
        self.heard_s, self.tag = now_s, self.rng.randrange(TAGS)
        if hello.keep_alive_ms:
            self._keep_alive_s = min(max(hello.keep_alive_ms / 1000.0, MIN_KEEP_ALIVE_S), MAX_KEEP_ALIVE_S)
        self._welcome = Welcome(nonce=hello.nonce, cloud=self.cloud, mark=mark, bases=tuple(bases), statuses=statuses)
        return [*effects, Send(Frame(epoch, self._welcome, (), self.tag), 1)]

    def fenced(self, hello: Hello, text: str) -> list[Effect]:
        """``hello`` came from a copy: it is refused, the present session is not touched (LINK-7)."""
        if self._judging is not hello:
            return []
        self._judging = None
        return [Send(Frame(0, Refused(reason=Reason.FENCED, nonce=hello.nonce, text=text)), 1), Alarm(text)]

    def failed(self, hello: Hello, retry_after_s: float) -> list[Effect]:
        """``hello`` could not be judged now: the edge asks again later."""
        if self._judging is hello:
            self._judging = None
        return [self.busy(hello, retry_after_s)]

    def busy(self, hello: Hello, retry_after_s: float) -> Effect:
        """Answer a hello that cannot be taken now."""
        text = "the cloud is busy"
        refused = Refused(reason=Reason.BUSY, nonce=hello.nonce, text=text, retry_after_ms=int(retry_after_s * 1000))
        return Send(Frame(0, refused), 1)

    def confirmed(self, epoch: int, now_s: float) -> list[Effect]:
        """That the edge holds ``epoch`` is on disk: the session is live."""
        if self.state is not CloudState.CONFIRMING or epoch != self.epoch:
            return []
        assert self._hello is not None
        assert self._welcome is not None
        self._move(CloudEvent.CONFIRMED)
        self.feed.begin()
        self.exchange = Exchange(epoch, self.tag, Inventory.HELD, self.feed, limits_of(self.settings), self.rng)
        self.exchange.start({"": self._welcome.mark})
        effects: list[Effect] = [Opened(epoch), *self.exchange.compare(self._hello.held, now_s)]
        waiting, self._buffer = self._buffer, []
        for frame in waiting:
            effects += self._live(frame, now_s)
        return [*effects, *self._pump(now_s)]

    def presence(self, presence: Presence, now_s: float) -> list[Effect]:
        """The presence topic spoke. Only the will of the session's own connection ends it (LINK-12)."""
        if presence.online:
            known = self.state is not CloudState.IDLE or self._judging is not None
            return [] if known else self._stale(presence.epoch, now_s)
        if self.state is CloudState.IDLE or presence.connection != self.connection:
            return []
        return self.end("connection lost")

    def committed(self, epoch: int, state_seq: int, messages: list[Messages], now_s: float) -> list[Effect]:
        """What a Deliver of ``epoch`` carried is stored."""
        if self.exchange is None or self.exchange.epoch != epoch:
            return []
        self.exchange.committed(state_seq, messages)
        return self._pump(now_s)

    def wake(self, now_s: float) -> list[Effect]:
        """There may be something new to send."""
        return self._pump(now_s)

    def kick(self, text: str) -> list[Effect]:
        """End the session and tell the edge."""
        refused = Refused(reason=Reason.KICKED, text=text)
        told = [Send(Frame(self.epoch, refused), 1)] if self.state is not CloudState.IDLE else []
        return [*told, *self.end(text)]

    def end(self, reason: str) -> list[Effect]:
        """End the session, if there is one."""
        effects = self._end(reason)
        self._move(CloudEvent.ENDED)
        return effects

    def tick(self, now_s: float) -> list[Effect]:
        """Do what is due; call at ``due_s``."""
        if self.state is CloudState.IDLE:
            return []
        if now_s >= self.heard_s + SILENCE_RATIO * self._keep_alive_s:
            return self.end("silent for 1.5 keep-alives")
        return self.exchange.tick(now_s) if self.exchange is not None else []

    def due_s(self) -> float | None:
        """Return when ``tick`` has something to do."""
        if self.state is CloudState.IDLE:
            return None
        silent = self.heard_s + SILENCE_RATIO * self._keep_alive_s
        due = self.exchange.due_s() if self.exchange is not None else None
        return silent if due is None else min(due, silent)

    # inside

    def _move(self, event: CloudEvent) -> None:
        after = CLOUD_TABLE.get((self.state, event))
        if after is None:
            raise IllegalEvent(f"{event.value} while {self.state.value}")
        self.state = after

    def _greeted(self, hello: Hello, now_s: float) -> list[Effect]:
        if hello.version < 1:
            return [
                Send(Frame(0, Refused(reason=Reason.VERSION, nonce=hello.nonce, text="version 1 is spoken here")), 1)
            ]
        mine = self._hello is not None and hello.nonce == self._hello.nonce and self.state is not CloudState.IDLE
        if mine and self.state is CloudState.OPEN and self._welcome is not None:
            return [Send(Frame(self.epoch, self._welcome, (), self.tag), 1)]
        if mine or self._judging is not None:
            return []  # late copy of the greeting that made this session, or one is being judged
        if hello.nonce in self._nonces and hello.attempt == 1:
            return []
        self._nonces = [*self._nonces[-NONCES_KEPT:], hello.nonce]
        self._judging = hello
        del now_s
        return [Judge(hello)]

    def _live(self, frame: Frame, now_s: float) -> list[Effect]:
        assert self.exchange is not None
        effects = self.exchange.receive(frame, now_s)
        if isinstance(frame.body, Ping):
            root = digest.root(self.feed.held()) if frame.body.held else b""
            effects.append(Send(self.exchange.frame(Pong(root)), 0))
            if frame.body.held and self.exchange.idle:
                effects += self.exchange.compare(frame.body.held, now_s)
        return [*effects, *self._pump(now_s)]

    def _stale(self, epoch: int, now_s: float) -> list[Effect]:
        if now_s - self._stale_told_s < STALE_PERIOD_S:
            return []
        self._stale_told_s = now_s
        return [
            Send(Frame(epoch, Refused(reason=Reason.STALE, text=TEXT, retry_after_ms=int(self.spread_s * 1000))), 1)
        ]

    def _end(self, reason: str) -> list[Effect]:
        self._buffer = []
        self._welcome = None
        live = self.state is CloudState.LIVE
        self.exchange = None
        return [Ended(self.epoch, reason)] if live else []

    def _pump(self, now_s: float) -> list[Effect]:
        return self.exchange.pump(now_s) if self.exchange is not None else []


def statuses_root(digests: Mapping[str, bytes]) -> bytes:
    """Return the root that a welcome carries."""
    return digest.root(digests)

"""All sessions of a broker: made, taken over, resumed, expired; and the wills that their connections leave."""

from collections.abc import Callable

from proto.kit.clock import Clock
from proto.mqtt import reasons
from proto.mqtt.counters import Counters
from proto.mqtt.identity import INSIDE, Identity, Refusal
from proto.mqtt.limits import BrokerSettings, Quota
from proto.mqtt.packets import WillMessage
from proto.mqtt.routing import Routing
from proto.mqtt.session import Outlet, Session
from proto.mqtt.store import Store
from proto.mqtt.timers import Timers


class Sessions:
    """Sessions by client id."""

    def __init__(
        self,
        store: Store,
        routing: Routing,
        settings: BrokerSettings,
        clock: Clock,
        counters: Counters,
        publish_will: Callable[[Session, WillMessage], None],
    ) -> None:
        self._store = store
        self._routing = routing
        self._settings = settings
        self._clock = clock
        self._counters = counters
        self._publish_will = publish_will
        self.timers = Timers()
        self.quota = Quota(settings.total_queue_bytes)
        self.by_id: dict[str, Session] = {}

    def load(self) -> None:
        """Take up what the store kept; every session starts without a connection."""
        loaded = self._store.load(self._make)
        for session, _ in loaded:
            self.by_id[session.client_id] = session
            self._routing.restore(session)
        for session, away_s in loaded:
            self._wait(session, away_s=min(away_s, session.expiry_s))

    def _make(self, client_id: str, owner: str, number: int) -> Session:
        return Session(client_id, owner, quota=self.quota, ledger=self._store, number=number)

    def attach(
        self, outlet: Outlet, identity: Identity, client_id: str, *, clean: bool, expiry_s: int
    ) -> tuple[Session, bool]:
        """Return (session, whether it was there before) for a new connection. Raises Refusal.

        The identity is compared with the session's owner before anything of the session is touched (MQTT-1).
        """
        session = self.by_id.get(client_id)
        if session is not None and session.owner != identity.name and identity is INSIDE:
            self._evict(session)  # nobody outside may keep this process from its own broker
            session = None
        if session is not None and session.owner != identity.name:
            raise Refusal(f"client id {client_id!r} belongs to another identity", reasons.NOT_AUTHORIZED)
        if session is not None and session.outlet is not None:
            session.outlet.shut(reasons.SESSION_TAKEN_OVER)
            session = self.by_id.get(client_id)
        if session is not None and clean:
            self.end(session)
            session = None
        present = session is not None
        if session is None:
            if len(self.by_id) >= self._settings.max_sessions and expiry_s:
                raise Refusal("too many sessions", reasons.QUOTA_EXCEEDED)
            session = self._make(client_id, identity.name, self._store.new_number() if expiry_s else 0)
            self.by_id[client_id] = session
        self._wake(session)
        session.outlet = outlet
        if session.subscriptions and session.identity != identity:
            self._routing.changed()  # who may receive what was decided for somebody else
        session.identity = identity
        session.expiry_s = expiry_s
        return session, present

    def _evict(self, session: Session) -> None:
        if session.outlet is not None:
            session.outlet.shut(reasons.NOT_AUTHORIZED)
        if not session.gone:
            self.end(session)

    def _wake(self, session: Session) -> None:
        for timer in session.timers or ():
            timer.cancel()
        session.timers = None
        session.will = None

    def detach(self, session: Session, *, will: bool) -> None:
        """The connection of ``session`` ended; ``will`` says whether its will is to be published."""
        session.outlet = None
        if not will:
            session.will = None
        if session.stored and session.expiry_s:
            self._store.save_session(session, connected=False)
        self._wait(session, away_s=0.0)

    def _wait(self, session: Session, *, away_s: float) -> None:
        now_s = self._clock.now_s()
        session.timers = []
        if session.will is not None and session.will.delay_s > 0 and session.expiry_s > 0:
            due_s = now_s + max(0.0, min(session.will.delay_s, session.expiry_s) - away_s)
            session.timers.append(self.timers.at(due_s, lambda: self._send_will(session)))
        elif session.will is not None:
            self._send_will(session)
        if not session.expiry_s:
            self.end(session)
        else:
            session.timers.append(self.timers.at(now_s + session.expiry_s - away_s, lambda: self._expire(session)))

    def _expire(self, session: Session) -> None:
        self._counters.closed.inc("session_expired")
        self.end(session)

    def _send_will(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is not None:
            self._publish_will(session, will)
            if session.stored and session.outlet is None and session.expiry_s:
                self._store.save_session(session, connected=False)

    def end(self, session: Session) -> None:
        """Forget a session; what waited for it is counted."""
        self._send_will(session)
        self._wake(session)
        self._routing.forget(session)
        lost = session.end()
        if lost:
            self._counters.dropped.inc("session_ended", by=len(lost))
        if session.stored:
            self._store.delete_session(session)
        if self.by_id.get(session.client_id) is session:
            del self.by_id[session.client_id]

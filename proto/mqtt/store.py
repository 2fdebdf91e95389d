"""What the broker keeps on disk. Everything put during one turn of the event loop is one transaction.

Messages are rows of *batches*: all messages of one turn for the same set of sessions share a row, so a publish costs a
fraction of an INSERT and its acknowledgement nothing but a larger ``floor`` of its session. A row goes when all its
references are done.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from proto.kit.clock import Clock, wall_ms
from proto.kit.database import Database, Tx
from proto.kit.log import Logger
from proto.mqtt.packets import Publish, Subscription, WillMessage
from proto.mqtt.properties import Properties
from proto.mqtt.session import Batch, Entry, Session

log = Logger("mqtt.store")
MAX_BATCH_BYTES = 1 << 20  # keeps what one slow session can pin beside its own messages small

SCHEMA = """
CREATE TABLE IF NOT EXISTS mqtt_sessions (
  number INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, version INTEGER NOT NULL,
  expiry_s INTEGER NOT NULL, floor INTEGER NOT NULL, sent INTEGER, ended_ms INTEGER, will BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_subscriptions (
  session INTEGER NOT NULL, filter TEXT NOT NULL, options BLOB NOT NULL, PRIMARY KEY (session, filter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_batches (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mqtt_done (session INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (session, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_released (session INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (session, packet_id));
CREATE TABLE IF NOT EXISTS mqtt_incoming (session INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (session, packet_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_retained (topic TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
_OF_SESSION = ("mqtt_subscriptions", "mqtt_done", "mqtt_released", "mqtt_incoming")
_SAVE = """INSERT INTO mqtt_sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET
  version=excluded.version, expiry_s=excluded.expiry_s, sent=excluded.sent, ended_ms=excluded.ended_ms, will=excluded.will"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Waiter = Callable[[BaseException | None], None]
Statement = tuple[str, tuple[Any, ...]]


class _Turn:
    """What one transaction writes, and who waits for it."""

    __slots__ = ("deliveries", "finished", "floors", "groups", "statements", "waiters")

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.groups: dict[tuple[int, ...], tuple[Batch, list[Any], list[int]]] = {}
        self.deliveries: list[tuple[Session, Entry]] = []
        self.floors: dict[Session, list[int]] = {}  # and the numbers done above the floor
        self.finished: list[int] = []  # batches
        self.waiters: list[Waiter] = []


class Store:
    """With ``db=None`` nothing is kept: sessions live as long as the process."""

    def __init__(self, db: Database | None, clock: Clock) -> None:
        self.db = db
        self.clock = clock
        self._turn: _Turn | None = None
        self._closed_groups: list[tuple[Batch, list[Any]]] = []
        self._next_batch = 1
        self._next_session = 1
        self._scheduled = False  # this turn is flushed when the loop comes round
        self._failing = False  # the last commit failed: only the tick writes
        self.failures = 0  # transactions that could not commit

    @property
    def durable(self) -> bool:
        return self.db is not None

    def new_number(self) -> int:
        """Return the key of a session to be stored; 0 when nothing is kept."""
        if self.db is None:
            return 0
        self._next_session += 1
        return self._next_session - 1

    # -- putting: in memory until the end of this turn

    def append(self, message: Publish, targets: list[tuple[Session, Entry]]) -> None:
        """Keep ``message`` for stored sessions; each gets its entry pushed after the commit."""
        turn = self._open_turn()
        key = tuple([session.number for session, _ in targets])
        group = turn.groups.get(key)
        if group is None or group[2][0] > MAX_BATCH_BYTES:
            if group is not None:
                self._closed_groups.append(group[:2])
            group = turn.groups[key] = (Batch(self._next_batch), [], [0])
            self._next_batch += 1
        batch, rows, size = group
        refs = [(s.number, e.seq, e.qos | e.retain << 2, e.ids) for s, e in targets]
        rows.append((self._pack(message), refs))
        size[0] += len(message.payload) + len(message.topic)
        batch.remaining += len(targets)
        for _, entry in targets:
            entry.batch = batch
        turn.deliveries += targets

    def settled(self, session: Session, entry: Entry) -> None:
        if self.db is None or not session.stored:
            return
        turn = self._lazy_turn()
        if not session.gone:
            done = turn.floors.get(session)
            if done is None:
                done = turn.floors[session] = []
            if entry.seq > session.floor:
                done.append(entry.seq)
        batch = entry.batch
        if batch is not None:
            batch.remaining -= 1
            if batch.remaining == 0:
                turn.finished.append(batch.number)

    def save_session(self, session: Session, *, connected: bool) -> None:
        """Keep (or update) what is known about a session; connected ones have no end and unknown sent numbers."""
        will = None
        if session.will is not None:
            will = _encode((self._pack(session.will.message), session.will.delay_s, session.will.message.retain))
        sent = None if connected else session.sent_seq
        ended_ms = None if connected else wall_ms(self.clock)
        row = (session.number, session.client_id, session.owner, session.version, session.expiry_s, session.floor)
        self._put(_SAVE, (*row, sent, ended_ms, will))

    def delete_session(self, session: Session) -> None:
        for table in _OF_SESSION:
            self._put(f"DELETE FROM {table} WHERE session=?", (session.number,))  # noqa: S608  names from this file
        self._put("DELETE FROM mqtt_sessions WHERE number=?", (session.number,))

    def subscribe(self, session: Session, one: Subscription) -> None:
        options = _encode((one.qos, one.no_local, one.retain_as_published, one.retain_handling, one.identifier))
        self._put(
            "INSERT OR REPLACE INTO mqtt_subscriptions VALUES (?, ?, ?)", (session.number, one.topic_filter, options)
        )

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        self._put("DELETE FROM mqtt_subscriptions WHERE session=? AND filter=?", (session.number, topic_filter))

    def incoming(self, session: Session, packet_id: int) -> None:
        self._put("INSERT OR IGNORE INTO mqtt_incoming VALUES (?, ?)", (session.number, packet_id))

    def incoming_done(self, session: Session, packet_id: int) -> None:
        self._put("DELETE FROM mqtt_incoming WHERE session=? AND packet_id=?", (session.number, packet_id))

    def released(self, session: Session, packet_id: int) -> None:
        self._put("INSERT OR IGNORE INTO mqtt_released VALUES (?, ?)", (session.number, packet_id))

    def released_done(self, session: Session, packet_id: int) -> None:
        self._put("DELETE FROM mqtt_released WHERE session=? AND packet_id=?", (session.number, packet_id))

    def retain(self, topic: str, message: Publish | None) -> None:
        if message is None:
            self._put("DELETE FROM mqtt_retained WHERE topic=?", (topic,))
        else:
            body = _encode((self._pack(message), message.qos))
            self._put("INSERT OR REPLACE INTO mqtt_retained VALUES (?, ?)", (topic, body))

    def after(self, waiter: Waiter) -> None:
        """Call ``waiter(None)`` once everything put so far is durable, or ``waiter(error)`` when it is not."""
        if self.db is None:
            waiter(None)
        else:
            self._open_turn().waiters.append(waiter)

    # -- committing

    def _put(self, sql: str, row: tuple[Any, ...]) -> None:
        if self.db is not None:
            self._open_turn().statements.append((sql, row))

    def _open_turn(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
        if not self._scheduled and not self._failing:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)
        return self._turn

    def _lazy_turn(self) -> _Turn:
        """As ``_open_turn`` for what nobody waits for: written with the next turn, or at the broker's next tick."""
        if self._turn is None:
            self._turn = _Turn()
        return self._turn

    def flush(self) -> "asyncio.Future[None] | None":
        """Hand this turn to the database; None when there is nothing to write.

        Called at the end of a turn with something to wait for, and by the broker's tick: that one takes along what is
        lazy, and tries again what a full disk refused, so that a failure does not spin.
        """
        self._scheduled = False
        turn, self._turn = self._turn, None
        if turn is None or self.db is None:
            return None
        groups = [*self._closed_groups, *((batch, rows) for batch, rows, _ in turn.groups.values())]
        self._closed_groups = []
        living = {session: seqs for session, seqs in turn.floors.items() if not session.gone}
        floors = [(session.floor, session.number) for session in living]
        done = [(s.number, seq) for s, seqs in living.items() for seq in seqs if seq > s.floor]
        swept = [(s.number, s.floor) for s in living if s.done is not None]

        def write(tx: Tx) -> None:
            for batch, rows in groups:
                tx.execute("INSERT INTO mqtt_batches VALUES (?, ?)", (batch.number, _encode(rows)))
            for sql, row in turn.statements:
                tx.execute(sql, row)
            for sql, many in (
                ("UPDATE mqtt_sessions SET floor=? WHERE number=?", floors),
                ("INSERT OR IGNORE INTO mqtt_done VALUES (?, ?)", done),
                ("DELETE FROM mqtt_done WHERE session=? AND seq<=?", swept),
                ("DELETE FROM mqtt_batches WHERE number=?", [(number,) for number in turn.finished]),
            ):
                if many:
                    tx.executemany(sql, many)

        future = self.db.submit(write)
        future.add_done_callback(lambda done_: self._committed(turn, done_))
        return future

    def _committed(self, turn: _Turn, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        self._failing = error is not None
        if error is not None:
            self._failed(turn, error)
        for waiter in turn.waiters:
            waiter(error)
        if error is None:
            touched: dict[Session, None] = {}
            for session, entry in turn.deliveries:
                session.push(entry)
                touched[session] = None
            for session in touched:
                session.pump()

    def _failed(self, turn: _Turn, error: BaseException) -> None:
        """Nothing of this turn was acknowledged: undo its messages, and write again what memory already forgot."""
        self.failures += 1
        if self.failures == 1 or self._turn is None:
            log.error("commit failed", error=error)
        for session, entry in turn.deliveries:
            entry.batch = None
            session.settle(entry)
        again = self._lazy_turn()
        for session, seqs in turn.floors.items():
            again.floors.setdefault(session, []).extend(seqs)
        again.finished += turn.finished
        deletes = [one for one in turn.statements if one[0].startswith("DELETE")]
        again.statements = list(dict.fromkeys([*deletes, *again.statements]))

    # -- loading, once, before anything is put

    def load(self, make: Callable[[str, str, int], Session]) -> list[tuple[Session, float]]:
        """Return the kept sessions, and the seconds each has been without a connection."""
        if self.db is None:
            return []
        out: list[tuple[Session, float]] = []
        by_number: dict[int, Session] = {}
        dup_up_to: dict[int, int | None] = {}
        now_ms = wall_ms(self.clock)
        for row in self._rows("SELECT * FROM mqtt_sessions ORDER BY number"):
            number, client_id, owner, version, expiry_s, floor, sent, ended_ms, will = row
            session = by_number[number] = make(client_id, owner, number)
            session.version, session.expiry_s, session.floor, session.next_seq = version, expiry_s, floor, floor + 1
            session.sent_seq = sent or 0
            dup_up_to[number] = sent
            if will is not None:
                packed, delay_s, retain = _decode(will)
                session.will = WillMessage(self._unpack(packed), delay_s)
                session.will.message.retain = retain
            out.append((session, 0.0 if ended_ms is None else max(0.0, (now_ms - ended_ms) / 1000)))
            self._next_session = number + 1
        self._load_parts(by_number)
        self._load_messages(by_number, dup_up_to)
        return out

    def _load_parts(self, by_number: dict[int, Session]) -> None:
        for number, topic_filter, options in self._rows("SELECT * FROM mqtt_subscriptions"):
            session = by_number[number]  # deleted in one transaction with its parts, so always there
            session.subscriptions = session.subscriptions or {}
            session.subscriptions[topic_filter] = Subscription(topic_filter, *_decode(options))
        for number, seq in self._rows("SELECT * FROM mqtt_done ORDER BY seq"):
            session = by_number[number]
            session.done = session.done or set()
            session.done.add(seq)
            session.next_seq = max(session.next_seq, seq + 1)
        for number, packet_id in self._rows("SELECT * FROM mqtt_released ORDER BY rowid"):
            by_number[number].released = {**(by_number[number].released or {}), packet_id: None}
        for number, packet_id in self._rows("SELECT * FROM mqtt_incoming"):
            by_number[number].incoming = {**(by_number[number].incoming or {}), packet_id: True}

    def _load_messages(self, by_number: dict[int, Session], dup_up_to: dict[int, int | None]) -> None:
        waiting: dict[Session, list[Entry]] = {}
        for number, body in self._rows("SELECT number, body FROM mqtt_batches ORDER BY number"):
            batch = Batch(number)
            self._next_batch = number + 1
            for packed, refs in _decode(body):
                message = self._unpack(packed)
                for ref in refs:
                    self._load_ref(message, ref, batch, by_number, waiting)
            if batch.remaining == 0:
                self._lazy_turn().finished.append(number)
        for session, entries in waiting.items():
            entries.sort(key=lambda entry: entry.seq)
            sent = dup_up_to[session.number]
            for entry in entries:
                entry.dup = sent is None or entry.seq <= sent
            session.next_seq = max(session.next_seq, entries[-1].seq + 1)
            session.restore(entries)

    @staticmethod
    def _load_ref(
        message: Publish,
        ref: list[Any],
        batch: Batch,
        by_number: dict[int, Session],
        waiting: dict[Session, list[Entry]],
    ) -> None:
        number, seq, flags, ids = ref
        session = by_number.get(number)
        if session is None or seq <= session.floor or (session.done and seq in session.done):
            return
        entry = Entry(message, flags & 3, retain=bool(flags & 4), ids=tuple(ids), seq=seq)
        entry.batch = batch
        batch.remaining += 1
        waiting.setdefault(session, []).append(entry)

    def load_retained(self) -> list[Publish]:
        out = []
        for _, body in self._rows("SELECT * FROM mqtt_retained"):
            packed, qos = _decode(body)
            message = self._unpack(packed)
            message.qos, message.retain = qos, True
            out.append(message)
        return out

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.db is not None
        return self.db.read(lambda conn: conn.execute(sql).fetchall())

    def _pack(self, message: Publish) -> tuple[Any, ...]:
        expires_ms = None
        if message.expires_at_s is not None:
            expires_ms = wall_ms(self.clock) + int((message.expires_at_s - self.clock.now_s()) * 1000)
        properties = message.forwarded() if message.properties else None
        return (message.topic, message.payload, message.qos, properties, expires_ms, message.client_id)

    def _unpack(self, packed: list[Any]) -> Publish:
        topic, payload, qos, raw, expires_ms, client_id = packed
        properties: Properties | None = None
        if raw:
            properties = {int(k): v for k, v in raw.items()}
        expires_at_s = None
        if expires_ms is not None:
            expires_at_s = self.clock.now_s() + (expires_ms - wall_ms(self.clock)) / 1000
        return Publish(topic, payload, qos, properties=properties, client_id=client_id, expires_at_s=expires_at_s)

"""Retained messages: the last one of each topic, on disk before its publisher hears PUBACK, within a quota."""

from collections.abc import Iterator

from proto.kit.clock import Clock
from proto.mqtt.limits import BrokerSettings
from proto.mqtt.packets import Publish
from proto.mqtt.session import size_of
from proto.mqtt.store import Store
from proto.mqtt.topics import NameTree


class Retained:
    def __init__(self, store: Store, settings: BrokerSettings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._tree: NameTree[Publish] = NameTree()
        self.used_bytes = 0

    def load(self) -> None:
        for message in self._store.load_retained():
            self._tree.put(message.topic, message)
            self.used_bytes += size_of(message)

    @property
    def messages(self) -> int:
        return self._tree.names

    def fits(self, message: Publish) -> bool:
        """Whether the quota has room for ``message`` in place of the one of its topic."""
        old = self._tree.get(message.topic)
        new_bytes = self.used_bytes + size_of(message) - (size_of(old) if old else 0)
        return not message.payload or (
            new_bytes <= self._settings.retained_bytes
            and (old is not None or self._tree.names < self._settings.retained_messages)
        )

    def put(self, message: Publish) -> None:
        """Keep ``message``; an empty payload removes (MQTT 5 §3.3.1.3)."""
        old = self._tree.get(message.topic)
        if old is None and not message.payload:
            return
        self.used_bytes -= size_of(old) if old else 0
        kept = message if message.payload else None
        self.used_bytes += size_of(kept) if kept else 0
        self._tree.put(message.topic, kept)
        self._store.retain(message.topic, kept)

    def match(self, topic_filter: str) -> Iterator[Publish]:
        """Yield the retained messages that a new subscription to ``topic_filter`` gets."""
        now_s = self._clock.now_s()
        for message in list(self._tree.match(topic_filter)):
            if message.expires_at_s is not None and message.expires_at_s <= now_s:
                self.put(Publish(message.topic, b"", retain=True))
            else:
                yield message

"""Retained messages: the last one of each topic, on disk before its publisher hears PUBACK, within a quota."""

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

    def topics(self, topic_filter: str) -> list[str]:
        """Return the topics whose retained messages a new subscription to ``topic_filter`` gets."""
        return [message.topic for message in self._tree.match(topic_filter)]

    def get(self, topic: str) -> Publish | None:
        """Return the message of a topic; one that has expired is removed instead."""
        message = self._tree.get(topic)
        if message is None or message.expires_at_s is None or message.expires_at_s > self._clock.now_s():
            return message
        self.put(Publish(topic, b"", retain=True))
        return None

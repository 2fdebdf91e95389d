"""The demo's own device: a press that counts its strokes over plain MQTT, with a ledger of what the edge acknowledged.

It speaks KubeEdge's device topics with paho and knows nothing of Skerry: an independent witness.
"""

import json
import threading
from collections import Counter
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

TOPIC = "$hw/events/device/default/press"


class Press:
    """One MQTT device. ``acknowledged`` holds each stroke that ``update/result`` confirmed, in order of confirmation."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Condition()
        self.acknowledged: list[int] = []
        self.published: Counter[int] = Counter()  # how often each stroke was sent: more than once only after a kill
        self.refused: list[str] = []
        self.desired: dict[str, str] = {}
        self.deltas = 0
        self._waiting: set[int] = set()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="press", clean_session=True)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.max_queued_messages_set(0)

    def start(self) -> None:
        self._client.connect_async("127.0.0.1", self._port, keepalive=10)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def strokes(self, first: int, last: int, timeout_s: float = 30.0) -> None:
        """Report strokes ``first``..``last`` one after the other; each counts once the edge's result names it.

        A stroke whose result did not come (the edge was killed under it) is reported again, as a device would.
        """
        for number in range(first, last + 1):
            self._stroke(number, timeout_s)

    def report(self, values: dict[str, str]) -> None:
        twin = {name: {"actual": {"value": value}, "metadata": {"type": "string"}} for name, value in values.items()}
        self._publish("report", twin)

    def _stroke(self, number: int, timeout_s: float) -> None:
        twin = {"strokes": {"actual": {"value": str(number)}, "metadata": {"type": "int"}}}
        with self._lock:
            self._waiting.add(number)
            tries = max(1, int(timeout_s / 2.0))
            for _ in range(tries):
                self.published[number] += 1
                self._publish(str(number), twin)
                if self._lock.wait_for(lambda: number not in self._waiting, 2.0):
                    return
        raise TimeoutError(f"stroke {number} was never acknowledged by the edge")

    def _publish(self, event_id: str, twin: dict[str, Any]) -> None:
        self._client.publish(f"{TOPIC}/twin/update", json.dumps({"event_id": event_id, "twin": twin}), qos=0)

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, _code: Any, _properties: Any) -> None:
        client.subscribe([(f"{TOPIC}/twin/update/result", 1), (f"{TOPIC}/twin/update/delta", 1)])

    def _on_message(self, _client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        if message.topic.endswith("/delta"):
            self._on_delta(body)
            return
        event_id = str(body.get("event_id", ""))
        with self._lock:
            if body.get("code"):
                self.refused.append(str(body.get("reason")))
            elif event_id.isdigit() and int(event_id) in self._waiting:
                self._waiting.discard(int(event_id))
                self.acknowledged.append(int(event_id))
                self._lock.notify_all()

    def _on_delta(self, body: dict[str, Any]) -> None:
        wanted = {name: str(value) for name, value in body.get("delta", {}).items()}
        with self._lock:
            self.deltas += 1
            self.desired |= wanted
            self._lock.notify_all()
        self.report(wanted)  # the press does as it is told, and says so

    def hears(self, name: str, value: str, timeout_s: float) -> bool:
        """Wait until a delta asked for ``name`` = ``value``."""
        with self._lock:
            return self._lock.wait_for(lambda: self.desired.get(name) == value, timeout_s)

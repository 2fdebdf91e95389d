"""A device that speaks plain MQTT (paho) and keeps its own ledger of what the edge acknowledged.

It numbers its reports, keeps a window of them in flight, and sends again whatever was not answered within its patience or
when its connection comes back, as a careful device would; when that brings an older number behind a newer one, it ends by
saying the newest again. It knows nothing of Skerry's code.
"""

import json
import threading
from collections import Counter, deque
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 8


class MqttDevice:
    """One device. ``acknowledged`` are the numbers that ``twin/update/result`` confirmed."""

    def __init__(self, name: str, port: int, *, prop: str = "count", window: int = WINDOW) -> None:
        self.name = name
        self.prop = prop
        self._window = window
        self.topic = f"$hw/events/device/default/{name}"
        self.acknowledged: set[int] = set()
        self.published: Counter[int] = Counter()
        self.sent: list[int] = []  # the numbers in the order in which they went out, repetitions included
        self.refused: list[str] = []
        self.heard: dict[str, str] = {}
        self.deltas: list[dict[str, str]] = []
        self.last = 0  # the newest number given out
        self._lock = threading.Condition()
        self._todo: deque[int] = deque()
        self._in_flight: dict[int, float] = {}
        self._obeying: dict[str, str] = {}  # told, and not yet confirmed as reported
        self._up = False
        self._port = port
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"device-{name}", clean_session=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)

    def start(self) -> None:
        self._client.connect_async("127.0.0.1", self._port, keepalive=5)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def report(self, count: int) -> None:
        """Queue the next ``count`` numbers; they go out as the window allows."""
        with self._lock:
            for _ in range(count):
                self.last += 1
                self._todo.append(self.last)
            self._fill()

    def settle(self, timeout_s: float) -> bool:
        """Wait until every number given out was acknowledged; sends again what was forgotten."""
        with self._lock:
            waited_s = 0.0
            while waited_s < timeout_s:
                if self._lock.wait_for(self._idle, 1.0):
                    return True
                waited_s += 1.0
                self._again()
            return self._idle()

    def _idle(self) -> bool:
        return not self._todo and not self._in_flight and not self._obeying

    def hears(self, name: str, value: str, timeout_s: float) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: self.heard.get(name) == value, timeout_s)

    def _again(self) -> None:
        """Put everything unanswered back, oldest first: order is the device's own duty."""
        newest = max(self.acknowledged, default=0)
        if self._in_flight and min(self._in_flight) < newest and newest == self.last:
            self._todo.append(newest)  # an older reading is about to become the twin's: the present one follows it
        self._todo.extendleft(sorted(self._in_flight, reverse=True))
        self._in_flight.clear()
        self._fill()
        if self._obeying and self._up:
            self._obey(self._obeying)

    def _fill(self) -> None:
        while self._up and self._todo and len(self._in_flight) < self._window:
            number = self._todo.popleft()
            self._in_flight[number] = 1.0
            self.published[number] += 1
            self.sent.append(number)
            twin = {self.prop: {"actual": {"value": str(number)}, "metadata": {"type": "int"}}}
            self._client.publish(
                f"{self.topic}/twin/update", json.dumps({"event_id": str(number), "twin": twin}), qos=0
            )

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            return
        legs = ("twin/update/result", "twin/update/delta", "twin/get/result")
        client.subscribe([(f"{self.topic}/{leg}", 1) for leg in legs])
        client.publish(f"{self.topic}/twin/get", json.dumps({"event_id": "get"}), qos=0)
        with self._lock:
            self._up = True
            self._again()

    def _on_disconnect(self, *_: Any) -> None:
        with self._lock:
            self._up = False

    def _on_message(self, _client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        with self._lock:
            if message.topic.endswith("/delta"):
                self._told({k: str(v) for k, v in body.get("delta", {}).items()})
                return
            if message.topic.endswith("/get/result"):
                twin = body.get("twin") or {}
                self._told({k: str(v["expected"]["value"]) for k, v in twin.items() if (v or {}).get("expected")})
                return
            event_id = str(body.get("event_id", ""))
            if body.get("code"):
                self.refused.append(f"{event_id}: {body.get('reason')}")
            elif event_id.startswith("obey "):
                done = json.loads(event_id.removeprefix("obey "))
                self._obeying = {n: v for n, v in self._obeying.items() if done.get(n) != v}
            elif event_id.isdigit():
                self._in_flight.pop(int(event_id), None)
                self.acknowledged.add(int(event_id))
                self._fill()
            self._lock.notify_all()

    def _told(self, wanted: dict[str, str]) -> None:
        if not wanted:
            return
        self.deltas.append(wanted)
        self.heard |= wanted
        self._obeying |= wanted
        self._lock.notify_all()
        self._obey(wanted)

    def _obey(self, wanted: dict[str, str]) -> None:
        twin = {n: {"actual": {"value": v}, "metadata": {"type": "string"}} for n, v in wanted.items()}
        self._client.publish(
            f"{self.topic}/twin/update", json.dumps({"event_id": f"obey {json.dumps(wanted)}", "twin": twin}), qos=0
        )

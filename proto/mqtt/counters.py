"""What the broker counts. Nothing is dropped or refused without a reason label here."""

from proto.kit.metrics import Metrics


class Counters:
    """The broker's metrics; gauges are registered by whoever owns the number.

    Each message touches only ``received_by_qos`` and ``sent_by_qos``; ``flush`` moves them to the metrics.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.received = metrics.counter(
            "skerry_mqtt_messages_received_total", "messages received from clients", ("qos",)
        )
        self.sent = metrics.counter("skerry_mqtt_messages_sent_total", "messages sent to clients", ("qos",))
        self.dropped = metrics.counter(
            "skerry_mqtt_messages_dropped_total", "messages not delivered to one receiver", ("reason",)
        )
        self.refused = metrics.counter(
            "skerry_mqtt_refused_total", "connects, publishes and subscriptions refused", ("reason",)
        )
        self.closed = metrics.counter(
            "skerry_mqtt_connections_closed_total", "connections closed by the broker", ("reason",)
        )
        self.connects = metrics.counter("skerry_mqtt_connects_total", "accepted CONNECTs")
        self.received_by_qos = [0, 0, 0]
        self.sent_by_qos = [0, 0, 0]

    def flush(self) -> None:
        for counter, counts in ((self.received, self.received_by_qos), (self.sent, self.sent_by_qos)):
            for qos, count in enumerate(counts):
                if count:
                    counter.inc(str(qos), by=count)
                    counts[qos] = 0

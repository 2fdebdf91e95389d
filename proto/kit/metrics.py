"""Counters, gauges and histograms in the Prometheus text format 0.0.4; small enough for the edge."""

import bisect
from collections.abc import Callable, Sequence

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _labels(names: Sequence[str], values: Sequence[str], extra: str = "") -> str:
    pairs = [f'{n}="{_escape(v)}"' for n, v in zip(names, values, strict=True)]
    if extra:
        pairs.append(extra)
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Counter:
    """A number that only grows, one per combination of label values."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help_text, tuple(labels)
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def inc(self, *label_values: str, by: float = 1.0) -> None:
        self.values[label_values] = self.values.get(label_values, 0.0) + by

    def value(self, *label_values: str) -> float:
        return self.values.get(label_values, 0.0)

    def lines(self) -> list[str]:
        return [f"{self.name}{_labels(self.labels, k)} {v:g}" for k, v in sorted(self.values.items())]


class Gauge(Counter):
    """A number that goes both ways; ``source`` is asked at scrape time instead, where given."""

    kind = "gauge"

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str] = (), source: Callable[[], float] | None = None
    ) -> None:
        super().__init__(name, help_text, labels)
        self._source = source

    def set(self, number: float, *label_values: str) -> None:
        self.values[label_values] = number

    def lines(self) -> list[str]:
        if self._source is not None:
            self.values[()] = float(self._source())
        return super().lines()


class Histogram:
    """Observations counted in buckets; unit in the name."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.name, self.help, self.buckets = name, help_text, tuple(buckets)
        self.counts = [0] * (len(self.buckets) + 1)
        self.sum = 0.0

    def observe(self, number: float) -> None:
        self.counts[bisect.bisect_left(self.buckets, number)] += 1
        self.sum += number

    def lines(self) -> list[str]:
        out, total = [], 0
        for bound, count in zip((*self.buckets, float("inf")), self.counts, strict=True):
            total += count
            le = "+Inf" if bound == float("inf") else f"{bound:g}"
            out.append(f'{self.name}_bucket{{le="{le}"}} {total}')
        return [*out, f"{self.name}_sum {self.sum:g}", f"{self.name}_count {total}"]


class Metrics:
    """All metrics of one process. Asking twice for a name returns the same one."""

    def __init__(self) -> None:
        self._all: dict[str, Counter | Histogram] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        found = self._all.setdefault(name, Counter(name, help_text, labels))
        assert isinstance(found, Counter)
        return found

    def gauge(
        self, name: str, help_text: str, labels: Sequence[str] = (), source: Callable[[], float] | None = None
    ) -> Gauge:
        found = self._all.setdefault(name, Gauge(name, help_text, labels, source))
        assert isinstance(found, Gauge)
        return found

    def histogram(self, name: str, help_text: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> Histogram:
        found = self._all.setdefault(name, Histogram(name, help_text, buckets))
        assert isinstance(found, Histogram)
        return found

    def names(self) -> list[str]:
        return sorted(self._all)

    def render(self) -> str:
        out: list[str] = []
        for name in self.names():
            metric = self._all[name]
            out += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *metric.lines()]
        return "\n".join(out) + "\n"

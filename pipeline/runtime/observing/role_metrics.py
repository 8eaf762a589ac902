"""The Prometheus metrics that every role has; the metrics of each role add to them.

Names begin with ``mailfold_`` and follow Prometheus' conventions: base units, ``_total`` for counters. A label has few
values: never an address or an email, and a tenant's or brand's name only where an operator has to act on it.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DELAY_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400)
"""For what takes as long as other people's servers take: up to a day."""


class RoleMetrics:
    """One process's metrics, in a registry of its own: tests run several roles in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._transactions: Histogram | None = None
        ProcessCollector(registry=self.registry)
        self._loop_lag = self.histogram(
            "event_loop_lag_seconds", "Delay of an event loop timer, measured ten times a second."
        )
        self._loop_stalls = self.counter(
            "event_loop_stalls", "How often the event loop was blocked for over 200 ms; the log names the code."
        )
        self.ready = self.gauge("ready", "1 if `/readyz` answers 200, else 0; read when the metrics are.")
        self.refresh_failures = self.counter(
            "refresh_failures", "How often gauges could not be read anew in time; the last values are shown."
        )
        self.trace_spans = self.counter(
            "trace_spans",
            "Spans of traces, by result: exported, failed (the collector did not take them), dropped (too many wait).",
            "result",
        )

    def record_loop_lag(self, lag_seconds: float, stalled: bool) -> None:
        """Record one measurement of the event loop's delay."""
        self._loop_lag.observe(lag_seconds)
        if stalled:
            self._loop_stalls.inc()

    def counter(self, name: str, description: str, *labels: str) -> Counter:
        """Return a new counter of this registry; Prometheus adds ``_total`` to its name."""
        return Counter(f"mailfold_{name}", description, labels, registry=self.registry)

    def gauge(self, name: str, description: str, *labels: str) -> Gauge:
        """Return a new gauge of this registry."""
        return Gauge(f"mailfold_{name}", description, labels, registry=self.registry)

    def histogram(
        self, name: str, description: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """Return a new histogram of this registry."""
        return Histogram(f"mailfold_{name}", description, labels, registry=self.registry, buckets=buckets)

    def transaction_seconds(self, what: str) -> Histogram:
        """Return the histogram of one kind of transaction's time."""
        if self._transactions is None:
            self._transactions = self.histogram(
                "transaction_seconds",
                "Time of a transaction, by what it writes: fold (to Kafka), intake, correlation, project, settle.",
                "what",
            )
        return self._transactions.labels(what)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ReaderMetrics:
    """The lag of a role's readers of the log; made for a role that has readers.

    ``reader`` is a name that `mailfold status` uses as well: worker, dispatch, correlation or project.
    """

    def __init__(self, metrics: RoleMetrics) -> None:
        self.lag = metrics.gauge(
            "lag_records", "Offsets that a reader has still to read.", "reader", "topic", "partition"
        )
        self.oldest = metrics.gauge(
            "oldest_unprocessed_seconds",
            "Age of the oldest record that was fetched and is not processed; 0 if there is none.",
            "reader",
            "topic",
        )
        self.log_lost = metrics.gauge(
            "log_lost",
            "1 while a reader stands still because the log lacks what was read from it: see `mailfold recover`.",
            "reader",
        )

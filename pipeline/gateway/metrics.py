"""What the gateway counts, and what it reads from Postgres -> Prometheus' text."""

import time
from pathlib import Path
from typing import Final

import psycopg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from psycopg_pool import PoolTimeout

from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.runtime.database import Pool
from projections.sql import SqlQueries

SQL = SqlQueries(Path(__file__).with_name("metrics.sql"))
REFRESH_INTERVAL_S: Final = 5.0
"""However often /metrics is read, Postgres is asked this seldom."""


class GatewayMetrics:
    """One registry per gateway, none per process: tests run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "Requests answered.", "surface", "status")
        self.request_seconds = Histogram(
            "mailfold_http_request_seconds",
            "Time to answer.",
            ["surface"],
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.messages = self._counter("messages", "Messages handed in, by what was answered.", "outcome")
        self.appends = self._counter("appends", "Records appended, by topic and whether confirmed.", "topic", "result")
        self.invalid_signatures = self._counter(
            "forged", "Tokens and webhooks that aren't ours or are stale.", "surface"
        )
        self.refused = self._counter(
            "http_refused",
            "Connections and requests that were not taken: address, connections, evicted, head, slow, memory.",
            "why",
        )
        self.tracked = self._counter(
            "tracked", "Opens and clicks heard, by who they are from: human, or why a machine.", "event", "by"
        )
        self.tracked_over_limit = self._counter(
            "tracked_over_limit", "Opens and clicks answered and not recorded: too many of one link.", "event"
        )
        self.body_bytes = self.gauge("http_body_bytes", "Bytes of request bodies in hand.")
        self.buffered_events = self.gauge("notes_waiting", "Opens and clicks answered and not yet written down.")
        self.webhooks = self._counter("webhooks", "Providers' webhooks, by what was answered.", "provider", "outcome")
        self.spooled = self._counter("spooled", "Opens and clicks written to the local spool.")
        self.unspooled = self._counter("unspooled", "Opens and clicks brought from the spool to the log.")
        self.spool_lost = self._counter("spool_lost", "Opens and clicks that even the spool could not take.")
        self.spool_events = self.gauge("spool_events", "Opens and clicks in this gateway's spool, not yet on the log.")
        self._loop_lag = Histogram(
            "mailfold_event_loop_lag_seconds",
            "How late the event loop came to a timer, measured ten times a second.",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._loop_stalls = self._counter(
            "event_loop_stalls", "How often the event loop was blocked for over 200 ms; the log says by what."
        )

    def count_messages(self, wanted: int, taken: int, refused: int) -> None:
        """Count the messages of a request that is taken whole or not at all; what is neither was not confirmed."""
        for outcome, number in (("successful", taken), ("failed", refused), ("fatal", wanted - taken - refused)):
            self.messages.labels(outcome).inc(number)

    def record_loop_lag(self, lag_seconds: float, stalled: bool) -> None:
        """Count one beat of the event loop."""
        self._loop_lag.observe(lag_seconds)
        if stalled:
            self._loop_stalls.inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mailfold_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of this registry."""
        return Gauge(f"mailfold_{name}", text, labels, registry=self.registry)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class PipelineGauges:
    """What the whole pipeline owes, from Postgres; remembered for REFRESH_S."""

    def __init__(self, pool: Pool, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._read_at = -REFRESH_INTERVAL_S
        self._up = metrics.gauge("postgres_up", "Whether Postgres answered for the gauges below.")
        self._jobs = metrics.gauge(
            "jobs", "Jobs not done, by queue and state; dead and unknown ones wait for a person.", "queue", "state"
        )
        self._oldest = metrics.gauge(
            "oldest_job_seconds", "Age of the oldest open job; queue emit: of the oldest owed conversion.", "queue"
        )
        self._parked = metrics.gauge("parked", "Events that wait for the ack that says whose they are.")
        self._oldest_parked = metrics.gauge("oldest_parked_seconds", "Age of the oldest of them; 0 where none waits.")
        self._unknown = metrics.gauge(
            "unknown_events", "Events of the last day of types that we don't know, kept; 10,000 at most.", "kind"
        )
        self._paused = metrics.gauge("lane_paused", "1 for each paused lane.", "queue", "lane")

    async def refresh(self) -> None:
        """Read them anew, unless they are fresh; where Postgres is away, say just that."""
        if time.monotonic() - self._read_at < REFRESH_INTERVAL_S:
            return
        self._read_at = time.monotonic()
        for gauge in (self._jobs, self._oldest, self._unknown, self._paused):
            gauge.clear()
        try:
            await self._read()
            self._up.set(1)
        except (psycopg.OperationalError, PoolTimeout):
            self._up.set(0)

    async def _read(self) -> None:
        async with self._pool.connection(timeout=2) as connection:
            found = (("open_jobs", self._jobs), ("oldest_jobs", self._oldest), ("unknown_events", self._unknown))
            for name, gauge in found:
                for *labels, value in await (await connection.execute(SQL[name])).fetchall():
                    gauge.labels(*labels).set(value)
            [(parked, since)] = await (await connection.execute(CORRELATION["parked"])).fetchall()
            self._parked.set(parked)
            self._oldest_parked.set(0 if since is None else max(0.0, time.time() - since / 1000))
            for labels in await (await connection.execute(SQL["paused_lanes"])).fetchall():
                self._paused.labels(*labels).set(1)

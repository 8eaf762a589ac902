"""The gateway's Prometheus metrics, and gauges of the whole pipeline that are read from Postgres.

`routes/ops.py` serves them at /metrics.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import Gauge

from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.runtime.observing.role_metrics import RoleMetrics
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from projections.sql import SqlQueries

SQL = SqlQueries(Path(__file__).with_name("metrics.sql"))
GaugeValue = tuple[Gauge, tuple[str, ...], float]
"""A gauge, the values of its labels, and its own."""
LARGE_TENANT_MIN_JOBS: Final = 1000
"""Jobs not done in one queue from which on a tenant counts as large: about as many as are done in some seconds."""
REFRESH_INTERVAL_S: Final = 5.0
"""Seconds between two reads from Postgres, however often /metrics is requested."""


class GatewayMetrics(RoleMetrics):
    """One gateway's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.body_bytes = self.gauge("http_body_bytes", "Bytes of request bodies in memory.")
        self._add_http_metrics()
        self._add_webhook_and_tracking_metrics()
        self._add_spool_metrics()

    def _add_http_metrics(self) -> None:
        self.requests = self.counter("http_requests", "Requests answered.", "surface", "status")
        self.request_seconds = self.histogram("http_request_seconds", "Time to answer.", "surface")
        self.messages = self.counter("messages", "Messages submitted, by the outcome that was answered.", "outcome")
        self.appends = self.counter("appends", "Records appended, by topic and whether confirmed.", "topic", "result")
        self.refused = self.counter(
            "http_refused",
            "Connections and requests refused, by reason: address, connections, evicted, head, slow, memory.",
            "why",
        )
        self.keys_refused = self.counter(
            "api_keys_refused",
            "API keys refused, by reason: unknown (or revoked), expired, network, scope, suspended (its tenant is); "
            "slowed: looked up late, because of many unknown keys from one network.",
            "why",
        )

    def _add_webhook_and_tracking_metrics(self) -> None:
        self.invalid_signatures = self.counter(
            "forged", "Tokens and webhooks whose signature is invalid or too old.", "surface"
        )
        self.webhooks = self.counter(
            "webhooks", "Providers' webhooks, by the outcome that was answered.", "provider", "outcome"
        )
        self.tracked = self.counter(
            "tracked", "Opens and clicks received, by what caused them: human, or why a machine.", "event", "by"
        )
        self.tracked_over_limit = self.counter(
            "tracked_over_limit", "Opens and clicks answered and not recorded: too many of one link.", "event"
        )
        self.buffered_events = self.gauge("notes_waiting", "Opens and clicks answered and not yet recorded.")

    def _add_spool_metrics(self) -> None:
        self.spooled = self.counter("spooled", "Opens and clicks written to the local spool.")
        self.unspooled = self.counter("unspooled", "Opens and clicks moved from the spool to the log.")
        self.spool_lost = self.counter("spool_lost", "Opens and clicks that could not be written even to the spool.")
        self.spool_events = self.gauge("spool_events", "Opens and clicks in this gateway's spool, not yet on the log.")

    def count_messages(self, wanted: int, taken: int, refused: int) -> None:
        """Count a request's messages as successful or failed; those that the log did not confirm count as fatal."""
        for outcome, number in (("successful", taken), ("failed", refused), ("fatal", wanted - taken - refused)):
            self.messages.labels(outcome).inc(number)


class PipelineGauges:
    """The whole pipeline's open work, read from Postgres at most once in ``REFRESH_INTERVAL_S``."""

    def __init__(self, pool: Pool, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._read_at = -REFRESH_INTERVAL_S
        self._up = metrics.gauge("postgres_up", "1 if Postgres answered when the pipeline's gauges were read, else 0.")
        self._jobs = metrics.gauge(
            "jobs", "Jobs not done, by queue and state; dead and unknown ones need an operator.", "queue", "state"
        )
        self._tenant_jobs = metrics.gauge(
            "tenant_jobs",
            "Jobs not done, by queue, state and class of their tenant: large (it has 1000 such jobs or more in this "
            "queue), small, none (its request was not read yet).",
            "queue",
            "state",
            "tenant_class",
        )
        self._oldest = metrics.gauge(
            "oldest_job_seconds", "Age of the oldest open job; in queue emit, of the oldest unsent conversion.", "queue"
        )
        self._oldest_suspended = metrics.gauge(
            "oldest_suspended_mail_seconds",
            "Age of the oldest accepted email that waits because its tenant is suspended, 0 if none does. Contents are "
            "kept for seven days.",
        )
        self._parked = metrics.gauge("parked", "Events parked until the ack that correlates them arrives.")
        self._oldest_parked = metrics.gauge(
            "oldest_parked_seconds", "Age of the oldest parked event; 0 if none is parked."
        )
        self._unknown = metrics.gauge(
            "unknown_events", "Events of unknown types in the last day; counted up to 10,000.", "kind"
        )
        self._paused = metrics.gauge("lane_paused", "1 for each paused lane.", "queue", "lane")
        self._stopped = metrics.gauge(
            "lanes_stopped",
            "Lanes that get no jobs, by queue and why: paused by an operator or an answer, open (failing).",
            "queue",
            "why",
        )

    async def refresh(self) -> None:
        """Read the gauges from Postgres, unless they are recent; if Postgres is unavailable, only set that gauge."""
        if time.monotonic() - self._read_at < REFRESH_INTERVAL_S:
            return
        self._read_at = time.monotonic()
        try:
            values = await self._read()
        except DATABASE_UNAVAILABLE_ERRORS:
            self._up.set(0)
            return
        # Without an await: a reader that comes in between, or a time-out, must not find the gauges empty.
        for gauge in (self._jobs, self._tenant_jobs, self._oldest, self._unknown, self._paused, self._stopped):
            gauge.clear()
        for gauge, labels, value in values:
            (gauge.labels(*labels) if labels else gauge).set(value)
        self._up.set(1)

    def _job_values(self, rows: Iterable[tuple[str, str, str, int]]) -> Iterator[GaugeValue]:
        """Yield the numbers of jobs by class of tenant, and over all classes."""
        totals: Counter[tuple[str, ...]] = Counter()
        for queue, state, tenant_class, jobs in rows:
            totals[queue, state] += jobs
            yield self._tenant_jobs, (queue, state, tenant_class), jobs
        yield from ((self._jobs, labels, jobs) for labels, jobs in totals.items())

    async def _read(self) -> list[GaugeValue]:
        values: list[GaugeValue] = []
        async with self._pool.connection(timeout=2) as connection:
            jobs = await (await connection.execute(SQL["open_jobs"], {"large": LARGE_TENANT_MIN_JOBS})).fetchall()
            values += self._job_values(jobs)
            queries = {
                "oldest_jobs": self._oldest,
                "oldest_suspended_mail": self._oldest_suspended,
                "unknown_events": self._unknown,
                "stopped_lanes": self._stopped,
            }
            for name, gauge in queries.items():
                for *labels, value in await (await connection.execute(SQL[name])).fetchall():
                    values.append((gauge, tuple(labels), value))
            [(parked, oldest_at)] = await (await connection.execute(CORRELATION["parked"])).fetchall()
            values.append((self._parked, (), parked))
            age_s = 0 if oldest_at is None else max(0.0, time.time() - oldest_at / 1000)
            values.append((self._oldest_parked, (), age_s))
            paused = await (await connection.execute(SQL["paused_lanes"])).fetchall()
            values += [(self._paused, tuple(labels), 1) for labels in paused]
        return values

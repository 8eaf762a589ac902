"""What the worker says of itself: gauges read from Faust's insides, and whether it is ready. `worker.main` adds it.

Nothing here asks the brokers: Faust's consumer runs on a thread of its own, and the ends of partitions come with every
fetch.
"""

import time
from collections.abc import Mapping
from typing import Any

from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.worker.metrics import WorkerMetrics
from pipeline.worker.streaming.app import WorkerFlow
from topics.registry import EMAIL_STATES

READER = "worker"


class FlowObserver:
    """The gauges and the readiness of one flow."""

    def __init__(self, flow: WorkerFlow, health: RoleHealth) -> None:
        self._app = flow.app
        self._prefix_chars = len(flow.settings.topic_prefix)
        self._store = flow.app.tables[EMAIL_STATES.name].data
        self._metrics: WorkerMetrics = flow.metrics
        self._topics: set[str] = set()
        """The topics whose age is shown: also those that other workers read now, with 0."""
        self._is_recovered = False
        self._app.on_rebalance_complete.connect(self._note_recovered)
        health.use_metrics(self._metrics)
        health.add_check(self.find_problems)
        health.add_gauges(self.refresh_gauges)

    async def find_problems(self) -> Mapping[str, str]:
        """Return that partitions move or that the states are being recovered; nothing while the worker folds."""
        if self._is_recovered and not self._app.rebalancing:
            return {}
        remaining = self._remaining()
        waits_for = f"recovering states, {remaining} records remain" if remaining else "partitions are being assigned"
        return {"worker": waits_for}

    async def refresh_gauges(self) -> None:
        """Set all gauges to their present values; do nothing before Faust has made its consumer."""
        if self._app._consumer is None:
            return
        positions: dict[Any, int] = dict(self._app.consumer._position)
        self._metrics.recovering.set(self._remaining())
        self._metrics.partitions.set(len({tp.partition for tp in positions}))
        self._show_lags(positions)
        self._show_ages(positions)
        self._show_stores()

    async def _note_recovered(self, _app: Any, **_: Any) -> None:
        self._is_recovered = True
        self._metrics.rebalances.inc()

    def _remaining(self) -> int:
        recovery = self._app.tables._recovery
        return 0 if recovery is None else sum(max(0, records) for records in recovery.active_remaining().values())

    def _show_lags(self, positions: Mapping[Any, int]) -> None:
        self._metrics.readers.lag.clear()
        for tp, position in positions.items():
            end = self._app.consumer._thread.highwater(tp)
            if end is not None:
                labels = (READER, tp.topic[self._prefix_chars :], str(tp.partition))
                self._metrics.readers.lag.labels(*labels).set(max(0, end - position))

    def _show_ages(self, positions: Mapping[Any, int]) -> None:
        oldest: dict[str, int] = {}
        for message in list(self._app.consumer._unacked_messages):
            if records := message.value.span.records:
                at = records[0].timestamp
                oldest[message.tp.topic] = min(oldest.get(message.tp.topic, at), at)
        now = time.time() * 1000
        self._topics |= {tp.topic for tp in positions}
        for topic in self._topics:
            age_s = max(0.0, now - oldest[topic]) / 1000 if topic in oldest else 0.0
            self._metrics.readers.oldest.labels(READER, topic[self._prefix_chars :]).set(age_s)

    def _show_stores(self) -> None:
        self._metrics.states.clear()
        self._metrics.store_bytes.clear()
        for partition in self._store.partitions():
            self._metrics.states.labels(str(partition)).set(self._store.size(partition))
            self._metrics.store_bytes.labels(str(partition)).set(self._store.file_bytes(partition))

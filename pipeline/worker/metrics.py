"""The worker's Prometheus metrics, beside those that every role has."""

from pipeline.runtime.observing.role_metrics import ReaderMetrics, RoleMetrics


class WorkerMetrics(RoleMetrics):
    """One worker's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = ReaderMetrics(self)
        self.fold_seconds = self.transaction_seconds("fold")
        self.rebalances = self.counter("rebalances", "How often partitions were assigned to this process.")
        self.partitions = self.gauge("partitions", "Partitions that this process has now.")
        self.recovering = self.gauge(
            "recovery_remaining_records", "Records that the local store has still to recover from the log."
        )
        self.states = self.gauge("states", "States in the local store, estimated.", "partition")
        self.store_bytes = self.gauge("state_store_bytes", "Bytes of the local store's files.", "partition")

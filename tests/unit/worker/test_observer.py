"""What the worker shows of Faust's insides: readiness, lag, ages, recovery and the store's size."""

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from faust.types import TP

from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.worker.metrics import WorkerMetrics
from pipeline.worker.streaming.observer import FlowObserver

FACTS = TP("x-delivery-events", 3)
CHANGELOG = TP("x-email-states", 3)


class Signal:
    def connect(self, listener: Any) -> None:
        self.send = listener


class Tables(dict[str, Any]):
    def __init__(self, remaining: Counter[TP]) -> None:
        super().__init__({"email-states": SimpleNamespace(data=Store())})
        self._recovery: Any = SimpleNamespace(active_remaining=lambda: remaining)


class Store:
    def partitions(self) -> list[int]:
        return [3]

    def size(self, _partition: int) -> int:
        return 70

    def file_bytes(self, _partition: int) -> int:
        return 9_000


def fetched(at_ms: float) -> Any:
    return SimpleNamespace(
        tp=FACTS, value=SimpleNamespace(span=SimpleNamespace(records=[SimpleNamespace(timestamp=at_ms)]))
    )


def made() -> tuple[FlowObserver, Any, WorkerMetrics]:
    consumer = SimpleNamespace(
        _position={FACTS: 40}, _thread=SimpleNamespace(highwater=lambda _: 50), _unacked_messages=set()
    )
    remaining = Counter({CHANGELOG: 12, TP("x-email-states", 4): -1})
    app = SimpleNamespace(
        _consumer=consumer,
        consumer=consumer,
        on_rebalance_complete=Signal(),
        rebalancing=True,
        tables=Tables(remaining),
    )
    metrics = WorkerMetrics()
    flow: Any = SimpleNamespace(app=app, settings=SimpleNamespace(topic_prefix="x-"), metrics=metrics)
    return FlowObserver(flow, RoleHealth("worker")), app, metrics


async def test_worker_is_ready_after_recovery_and_not_while_partitions_move() -> None:
    observer, app, metrics = made()
    assert await observer.find_problems() == {"worker": "recovering states, 12 records remain"}
    app.tables._recovery = None
    assert await observer.find_problems() == {"worker": "partitions are being assigned"}
    app.rebalancing = False
    assert await observer.find_problems() != {}, "before its first assignment nothing moves either"
    await app.on_rebalance_complete.send(app)
    assert await observer.find_problems() == {}
    assert metrics.registry.get_sample_value("mailfold_rebalances_total") == 1
    app.rebalancing = True
    assert await observer.find_problems() != {}


async def test_gauges_show_lag_age_recovery_and_the_store() -> None:
    observer, app, metrics = made()
    old, new = fetched((time.time() - 60) * 1000), fetched(time.time() * 1000)
    app.consumer._unacked_messages = [new, old]
    await observer.refresh_gauges()

    def value(name: str, **labels: str) -> float:
        return cast("float", metrics.registry.get_sample_value(f"mailfold_{name}", labels))

    place = {"reader": "worker", "topic": "delivery-events"}
    assert value("lag_records", **place, partition="3") == 10
    assert 60 <= value("oldest_unprocessed_seconds", **place) < 120
    assert value("recovery_remaining_records") == 12
    assert value("partitions") == 1
    assert value("states", partition="3") == 70
    assert value("state_store_bytes", partition="3") == 9_000
    app.consumer._unacked_messages = []
    await observer.refresh_gauges()
    assert value("oldest_unprocessed_seconds", **place) == 0


async def test_nothing_is_read_before_faust_has_a_consumer() -> None:
    observer, app, metrics = made()
    app._consumer = None
    await observer.refresh_gauges()
    assert "mailfold_lag_records{" not in metrics.render().decode()

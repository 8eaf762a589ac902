"""The dispatcher says that it is not ready while it reads what it must know before it sends, and how far it is."""

from typing import Any

import psycopg

from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.changes import T0, acked
from tests.support.dispatching import dispatching
from tests.support.seeing import until
from topics.registry import PROVIDER_ACKS


def sample(rt: Runtime, name: str, **labels: str) -> float | None:
    return rt.health.metrics.registry.get_sample_value(name, labels)


async def test_dispatcher_is_ready_only_once_it_has_read_the_acks(settings: Settings) -> None:
    acks: list[Any] = [acked(number, T0) for number in range(20)]
    async with open_runtime(settings) as rt:
        await append_all(rt.log, [LogEntry(PROVIDER_ACKS, ack.email_id, ack) for ack in acks])
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as blocker:
        await blocker.execute("lock table jobs.jobs in share mode")  # reads go on, writes wait
        async with dispatching(settings) as rt:

            async def is_catching_up() -> bool:
                return "catching up" in (await rt.health.find_problems()).get("dispatch", "")

            async def is_ready() -> bool:
                return not await rt.health.find_problems()

            await until(is_catching_up)
            await rt.health.refresh_gauges()
            oldest = {"reader": "dispatch", "topic": "provider-acks"}
            assert (sample(rt, "mailfold_oldest_unprocessed_seconds", **oldest) or 0) > 0
            await blocker.rollback()
            await until(is_ready)
            await rt.health.refresh_gauges()
            assert sample(rt, "mailfold_ready") == 1
            assert sample(rt, "mailfold_oldest_unprocessed_seconds", **oldest) == 0
            for reader in ("dispatch", "correlation"):
                labels = {"reader": reader, "topic": "provider-acks"}
                assert sample(rt, "mailfold_lag_records", **labels, partition="0") is not None
            assert (sample(rt, "mailfold_transaction_seconds_count", what="intake") or 0) > 0

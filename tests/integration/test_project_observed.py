"""The projector says whether it is ready, how far it is, and why it stands still."""

from typing import Any

import psycopg
import pytest

from pipeline.operations.status import read_status
from pipeline.project import audit, compacted_topics
from pipeline.project.observer import ProjectObserver
from pipeline.project.partition import PartitionProjector
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.sleep import sleep_unless
from pipeline.settings import Settings
from tests.support.changes import lives
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import rows, until
from topics.registry import SUPPRESSIONS, TEMPLATES


async def is_ready(rt: Runtime) -> bool:
    return not await rt.health.find_problems()


def sample(rt: Runtime, name: str, **labels: str) -> float | None:
    return rt.health.metrics.registry.get_sample_value(name, labels)


async def test_projector_is_ready_only_once_it_has_read_what_was_there(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        await publish(rt, lives(4, 60).changes)
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as blocker:
        await blocker.execute("lock table projections.next_offsets in access exclusive mode")
        async with projecting(settings) as rt:

            async def is_catching_up() -> bool:
                return "catching up" in (await rt.health.find_problems()).get("project", "")

            await until(is_catching_up)
            await blocker.rollback()
            await until(lambda: is_ready(rt))
            await until(lambda: caught_up(rt))
            await rt.health.refresh_gauges()
            labels = {"reader": "project", "topic": "email-changes"}
            assert [sample(rt, "mailfold_lag_records", **labels, partition=str(number)) for number in (0, 1)] == [0, 0]
            assert sample(rt, "mailfold_oldest_unprocessed_seconds", **labels) == 0
            assert sample(rt, "mailfold_partitions") == 2
            assert (sample(rt, "mailfold_projected_through_timestamp_seconds") or 0) > 0
            assert (sample(rt, "mailfold_stage_seconds_count", stage="projected") or 0) > 0
            assert (sample(rt, "mailfold_transaction_seconds_count", what="project") or 0) > 0


async def test_projector_that_has_the_first_partition_audits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "OWNER_CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(audit, "ROUND_INTERVAL_S", 0.05)
    async with projecting(settings) as rt:
        await until(lambda: sample(rt, "mailfold_audit_finished_timestamp_seconds"))
        assert sample(rt, "mailfold_audit_emails", fate="accepted") == 0
        monkeypatch.setattr(ProjectObserver, "has_partition", lambda *_: False)
        await until(lambda: sample(rt, "mailfold_audit_finished_timestamp_seconds") == 0)
        assert sample(rt, "mailfold_audit_emails", fate="accepted") is None


async def test_halted_compacted_topic_is_told_by_metrics_and_readiness_until_it_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacted_topics, "_HALT_PAUSE_S", 0.05)
    async with projecting(settings) as rt:
        await until(lambda: is_ready(rt))
        await rt.log.append_raw(TEMPLATES.name, b"k", b'{"type":"template/2"}')

        async def problem() -> str:
            return (await rt.health.find_problems()).get("topic templates", "")

        assert "halted: templates/0/0: template/2 is newer than template/1" in await until(problem)
        assert sample(rt, "mailfold_compacted_topic_halted", topic="templates") == 1
        assert sample(rt, "mailfold_compacted_topic_halted", topic="suppressions") == 0
        # Another projector, which knows the version, has projected it.
        await rows(rt, "update templates.next_offsets set next_offset = 1 returning 1")
        await until(lambda: is_ready(rt))
        assert sample(rt, "mailfold_compacted_topic_halted", topic="templates") == 0


async def test_compacted_topic_that_was_cut_is_not_read_from_its_beginning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacted_topics, "_HALT_PAUSE_S", 0.05)
    offset = "select next_offset from suppressions.next_offsets"
    async with open_runtime(settings, signals=False) as rt:
        await rows(rt, "insert into suppressions.next_offsets values ('suppressions', 0, 9) returning 1")
        await rt.log.append_raw(SUPPRESSIONS.name, b"k", b"{}")
    async with projecting(settings) as rt:

        async def problem() -> str:
            return (await rt.health.find_problems()).get("topic suppressions", "")

        said = await until(problem)
        assert "suppressions/0 was read up to offset 9, but ends at 1: " in said
        assert "mailfold recover" in said
        assert await rows(rt, offset) == [(9,)]
        await rows(rt, "update suppressions.next_offsets set next_offset = 0 returning 1")
        await until(lambda: is_ready(rt))
        assert await rows(rt, offset) == [(1,)]


async def test_halted_partition_is_told_by_metrics_readiness_and_status(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pause(self: PartitionProjector, _seconds: float) -> None:
        await sleep_unless(self.rt.stop, 0.05)

    monkeypatch.setattr(PartitionProjector, "_pause", pause)
    async with projecting(settings) as rt:
        await publish(rt, lives(4, 60).changes)
        await until(lambda: caught_up(rt))
    async with open_runtime(settings) as rt:
        [(end,)] = await rows(
            rt,
            "update projections.next_offsets set next_offset = next_offset + 9 where partition = 1 "
            "returning next_offset",
        )

    async with projecting(settings) as rt:

        async def halted() -> Any:
            return (await read_status(rt)).halted

        [partition] = await until(halted)
        assert (partition.partition, "but ends at" in partition.reason) == (1, True)
        assert f"halted at offset {end}: " in (await rt.health.find_problems())["partition 1"]
        assert sample(rt, "mailfold_projection_halted", partition="1") == 1
        assert "mailfold recover" in (await rt.health.find_problems())["project"]
        await rt.health.refresh_gauges()
        assert sample(rt, "mailfold_log_lost", reader="project") == 1
        await rows(rt, "update projections.next_offsets set next_offset = %s where partition = 1 returning 1", end - 9)

        async def goes_on() -> bool:
            return await is_ready(rt) and not await halted()

        await until(goes_on)
        assert sample(rt, "mailfold_projection_halted", partition="1") == 0

"""A rebuild from the log equals the live tables, sends nothing, and is swapped in while all roles run."""

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from pipeline.errors import Refused
from pipeline.operations.rebuild import rebuild
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import topic_partition
from pipeline.settings import Settings
from tests.support.changes import lives
from tests.support.projecting import caught_up, ends, projecting, publish
from tests.support.seeing import rows, until
from tests.support.tables import tables


def silent(_done: int, _total: int) -> None: ...


async def all_tables(rt: Runtime) -> dict[str, list[tuple[Any, ...]]]:
    async with rt.pool.connection() as connection:
        return await tables(connection)


async def test_rebuild_equals_the_live_tables_and_changes_no_job(settings: Settings) -> None:
    log = lives(11, 80)
    async with projecting(settings) as rt:
        await publish(rt, log.changes[:150])
        await until(lambda: caught_up(rt))
        await publish(rt, log.changes[150:])
        await until(lambda: caught_up(rt))
        before = await all_tables(rt)
        jobs = await rows(rt, "select *, xmin::text from jobs.jobs order by stream, seq")
        done = await rebuild(rt, silent)
        assert done.swapped
        assert done.differences == []
        assert done.booked == 0
        assert done.records == sum((await ends(settings)).values())
        assert await all_tables(rt) == before
        assert await rows(rt, "select *, xmin::text from jobs.jobs order by stream, seq") == jobs
        schemas = "select count(*) from information_schema.schemata where schema_name like 'projections%'"
        assert await rows(rt, schemas) == [(1,)]


async def test_projector_continues_after_repeated_swaps(settings: Settings) -> None:
    log = lives(12, 80)
    async with projecting(settings) as rt:
        for part in (log.changes[:100], log.changes[100:200], log.changes[200:]):
            await publish(rt, part)
            done = await rebuild(rt, silent)
            assert done.swapped
            assert done.differences == []
        await until(lambda: caught_up(rt))
        [(emails,)] = await rows(rt, "select count(*) from projections.history")
    assert emails == len({change.email_id for change in log.changes})


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        (
            "update projections.history set status = 'lost' where status = 'bounced'",
            "history",
        ),
        ("delete from projections.timeline where kind = 'accepted'", "timeline"),
        ("delete from projections.versions where version = 1", "versions"),
        ("update projections.evidence set at = 0", "evidence"),
        ("delete from jobs.jobs where name = 'delivered'", "debts"),
    ],
)
async def test_difference_is_reported_and_not_swapped_unless_forced(
    settings: Settings, damage: str, table: str
) -> None:
    log = lives(13, 60)
    async with projecting(settings) as rt:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt))
    async with open_runtime(settings) as rt:
        whole = await all_tables(rt)
        async with rt.pool.connection() as connection:
            await connection.execute(damage.encode())
        hurt = await all_tables(rt)
        for check in (True, False):
            refused = await rebuild(rt, silent, check=check)
            assert [difference.table for difference in refused.differences] == [table]
            assert not refused.swapped
            assert await all_tables(rt) == hurt
        forced = await rebuild(rt, silent, force=True)
        assert forced.swapped
        healed = await all_tables(rt)
        booked = whole.pop("jobs")
        assert {name: healed[name] for name in whole} == whole
        # A debt that is booked again gets a new number, because numbers are never given twice.
        assert {(job[1], job[3], job[5]) for job in healed["jobs"]} == {(job[1], job[3], job[5]) for job in booked}


async def test_second_concurrent_rebuild_is_refused(settings: Settings) -> None:
    from pipeline.operations.rebuild import REBUILD_LOCK_ID
    from pipeline.runtime.postgres.leader import hold_command_lock

    async with open_runtime(settings) as rt, hold_command_lock(rt, "rebuild", REBUILD_LOCK_ID):
        with pytest.raises(Refused, match="another rebuild"):
            await rebuild(rt, silent)


async def test_rows_expired_from_the_log_prevent_the_swap(settings: Settings) -> None:
    """`email-changes` keeps 400 days: a rebuild can't know what is older, and must not throw it away."""
    log = lives(14, 60)
    async with projecting(settings) as rt:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt))
        before = await all_tables(rt)
        partition = topic_partition("email-changes", 0, settings)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        await admin.start()
        await admin.delete_records({partition: RecordsToDelete(before_offset=10)})
        await admin.close()
        done = await rebuild(rt, silent)
        assert not done.swapped
        assert {difference.table for difference in done.differences} >= {"history", "timeline"}
        assert all(difference.only_grown for difference in done.differences if difference.table == "timeline")
        assert await all_tables(rt) == before

"""The rollups, written by the real projector into a real Postgres, are the sums over the emails in it."""

import asyncio
import functools
from typing import Any

import psycopg
import pytest

from pipeline.operations.rebuild import rebuild
from pipeline.project import older_rows
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from projections import statistics_rows
from projections.metric_definitions import COUNTERS, TIME_BUCKETS, TIME_METRICS
from projections.sink import ChangeBatch, Sink
from projections.statistics import NUMBERS
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, event, in_campaign, lives, request
from tests.support.projecting import caught_up, projecting, publish
from tests.support.recounting import Counts, recount
from tests.support.seeing import rows, until
from tests.support.tables import tables
from topics.codec import decode
from topics.events import EventKind
from topics.registry import EMAIL_STATES

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)))


def silent(_done: int, _total: int) -> None: ...


async def stored(rt: Runtime) -> Counts:
    """Return what the rollups hold."""
    times = [f"coalesce(sum({name}[{nth + 1}]), 0)" for name in TIME_METRICS for nth in range(TIME_BUCKETS)]
    sums = ", ".join([f"sum({name})" for name in COUNTERS] + times)
    counts: Counts = {}
    for by_event, slot, *numbers in await rows(
        rt, f"select by_event, slot, {sums} from projections.statistics group by by_event, slot"
    ):
        counts |= {(by_event, slot, name): int(n) for name, n in zip(NUMBERS, numbers, strict=True) if n}
    return counts


async def recounted(rt: Runtime) -> Counts:
    return recount(
        [decode(EMAIL_STATES, state) for (state,) in await rows(rt, "select state from projections.history")]
    )


async def project(rt: Runtime, first: int, log: Log) -> int:
    """Write a log's changes from ``first`` on, as the projector does; return the next offset."""
    async with rt.pool.connection() as connection:
        await SINK.start(connection, log.partition, 0, 0)
        await SINK.apply(connection, ChangeBatch(log.partition, first, len(log.changes), log.changes[first:]))
    return len(log.changes)


async def test_rollups_are_the_sums_over_the_history(settings: Settings) -> None:
    changes = lives(21, 80, campaigns=5).changes
    async with projecting(settings) as rt:
        await publish(rt, changes[:120])
        await until(lambda: caught_up(rt))
        await publish(rt, changes[120:])
        await until(lambda: caught_up(rt))
        assert await stored(rt) == await recounted(rt)
        assert await rows(rt, "select count(*) from projections.history where counted_version <> version") == [(0,)]
        domains = await rows(rt, "select distinct recipient_domain from projections.statistics_groups order by 1")
        assert domains == [("gmail.com",), ("other",), ("outlook.com",)]


async def test_full_month_counts_its_campaigns_apart_and_new_ones_as_other(settings: Settings) -> None:
    log = Log().fold(*in_campaign([request(2)], 2))
    async with open_runtime(settings) as rt:
        next_offset = await project(rt, 0, log)
        more = """
            insert into projections.statistics_campaigns
            select tenant, month, partition, 'x', nth::text, '', ''
            from projections.statistics_campaigns, generate_series(1, 999) as nth"""
        async with rt.pool.connection() as connection:
            await connection.execute(more)
        log.fold(*in_campaign([request(20)], 2)).fold(*in_campaign([request(40)], 4))
        await project(rt, next_offset, log)
        groups = "select brand, activity_id from projections.statistics_groups order by activity_id"
        assert await rows(rt, groups) == [("1", "2"), ("1", "other")]
        assert await rows(rt, "select count(*) from projections.statistics_campaigns") == [(1000,)]


async def test_no_empty_row_is_left_where_an_email_moved_to_its_provider(settings: Settings) -> None:
    log = Log().fold(*in_campaign([request(1)], 0)).fold(acked(1, T0 + 10))
    async with open_runtime(settings) as rt:
        next_offset = await project(rt, 0, log)
        log.fold(event(1, EventKind.DELIVERED, T0 + 20))
        await project(rt, next_offset, log)
        assert await rows(rt, "select distinct provider from projections.statistics") == [("relay",)]


async def test_rows_that_an_older_version_wrote_are_made_up_for(settings: Settings) -> None:
    """An older projector beside a new one changes `history` and `versions`, and knows no rollups."""
    log = Log().fold(request(1)).fold(acked(1, T0 + 10)).fold(event(1, EventKind.DELIVERED, T0 + 20))
    async with open_runtime(settings) as rt:
        next_offset = await project(rt, 0, log)
        older = "update projections.history set counted_version = 1"
        emptied = "update projections.statistics set delivered = 0, attempted = 0, sent = 0, time_to_deliver = null"
        async with rt.pool.connection() as connection:
            await connection.execute(older)
            await connection.execute(emptied)
            await connection.execute("update projections.statistics set conversions_owed = 0")
            # What is counted is version 1: only the acceptance, without a provider.
            await connection.execute("delete from projections.statistics where accepted = 0")
            await connection.execute("update projections.statistics set provider = ''")
        log.fold(event(1, EventKind.OPENED, T0 + 30))
        await project(rt, next_offset, log)
        assert await stored(rt) == await recounted(rt)


async def test_older_rows_are_counted_in_the_background(settings: Settings) -> None:
    """Rows that never change again are counted too, and found by all filters; until then answers say so."""
    async with open_runtime(settings) as rt:
        await project(rt, 0, lives(25, 30, campaigns=4))
        async with rt.pool.connection() as connection:
            whole = await tables(connection)
            assert await _complete_from(connection) == 0
            await _forget(connection)
            await _forget_facets(connection)
            assert await _complete_from(connection) == 1800000000000
            assert await _count_older(connection, 7) == [7, 7, 7, 7, 2, 0]
            assert await tables(connection) == whole
            assert await _complete_from(connection) == 0
            # An older projector that runs beside this one writes rows also after that.
            await connection.execute("update projections.history set counted_version = 0")
            (latest,) = await rows(rt, "select max(valid_from) from projections.history")
            assert await _complete_from(connection) == latest[0] + 1


async def test_projector_counts_older_rows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counts_all() -> bool:
        return await rows(rt, "select count(*) from projections.statistics_coverage") == [(0,)]

    monkeypatch.setattr(older_rows, "ROUND_INTERVAL_S", 0.1)
    async with open_runtime(settings) as rt:
        await project(rt, 0, lives(26, 10))
        async with rt.pool.connection() as connection:
            await _forget(connection)
    async with projecting(settings) as rt:
        await until(counts_all)
        assert await stored(rt) == await recounted(rt)


async def test_change_of_an_older_row_completes_what_it_is_found_by(settings: Settings) -> None:
    log = Log().fold(request(1)).fold(acked(1, T0 + 10)).fold(event(1, EventKind.DELIVERED, T0 + 20))
    async with open_runtime(settings) as rt:
        next_offset = await project(rt, 0, log)
        async with rt.pool.connection() as connection:
            whole = await tables(connection, "requests")
            await _forget(connection)
            await _forget_facets(connection)
        log.fold(event(1, EventKind.OPENED, T0 + 30))
        await project(rt, next_offset, log)
        async with rt.pool.connection() as connection:
            assert await tables(connection, "requests") == whole
        assert await rows(rt, "select version from projections.versions where facts is not null") == [(1,), (2,), (3,)]
        assert await stored(rt) == await recounted(rt)


async def test_rebuild_counts_what_was_before_the_rollups(settings: Settings) -> None:
    changes = lives(22, 60, campaigns=4).changes
    async with projecting(settings) as rt:
        await publish(rt, changes)
        await until(lambda: caught_up(rt))
    async with open_runtime(settings) as rt:
        whole = await _statistics(rt)
        async with rt.pool.connection() as connection:
            await _forget(connection)
        done = await rebuild(rt, silent)
        assert (done.differences, done.swapped) == ([], True)
        assert await _statistics(rt) == whole


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        ("update projections.statistics set delivered = delivered + 1 where delivered > 0", "statistics"),
        ("delete from projections.statistics_groups", "statistics_groups"),
    ],
)
async def test_rebuild_tells_wrong_figures(settings: Settings, damage: str, table: str) -> None:
    async with projecting(settings) as rt:
        await publish(rt, lives(23, 30, campaigns=2).changes)
        await until(lambda: caught_up(rt))
    async with open_runtime(settings) as rt:
        async with rt.pool.connection() as connection:
            await connection.execute(damage.encode())
        refused = await rebuild(rt, silent, check=True)
        assert [difference.table for difference in refused.differences] == [table]


async def test_email_is_counted_once_however_often_a_batch_is_repeated(settings: Settings) -> None:
    log = lives(24, 20, campaigns=2)
    async with open_runtime(settings) as rt:
        next_offset = await project(rt, 0, log)
        log.changes += log.changes[:20]
        await project(rt, next_offset, log)
        assert await stored(rt) == await recounted(rt)
        assert await rows(rt, "select sum(accepted) from projections.statistics where not by_event") == [(20,)]


async def test_two_projectors_write_the_same_groups_at_once_and_no_row_together(settings: Settings) -> None:
    logs = [Log(partition) for partition in (0, 1)]
    for log in logs:
        for number in range(0, 40, 2):
            own = 1000 * log.partition + number
            log.fold(*in_campaign([request(own)], number)).fold(acked(own, T0 + 10))
    async with open_runtime(settings) as rt:
        await asyncio.gather(*(project(rt, 0, log) for log in logs))
        assert await stored(rt) == await recounted(rt)
        shared = "select count(distinct partition) from projections.statistics group by group_id"
        assert set(await rows(rt, shared)) == {(2,)}


async def _statistics(rt: Runtime) -> dict[str, list[tuple[Any, ...]]]:
    names = ("statistics", "statistics_groups", "statistics_campaigns", "statistics_coverage")
    async with rt.pool.connection() as connection:
        return await tables(connection, *names)


async def _forget(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make the tables as the migration leaves those of a database that is older."""
    await connection.execute(
        "truncate projections.statistics, projections.statistics_groups, projections.statistics_campaigns"
    )
    await connection.execute("insert into projections.statistics_coverage (complete_from) values (1800000000000)")
    await connection.execute("update projections.history set counted_version = 0, statistics_group = null")


async def _forget_facets(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make what emails are filtered by as a version before the history API leaves it."""
    await connection.execute("truncate projections.requests")
    facets = "facts = null, provider = null, bounce_class = null, bounce_code = null, suppressed_reason = null"
    await connection.execute(f"update projections.history set {facets}".encode())
    await connection.execute(f"update projections.versions set status = null, {facets}".encode())


async def _count_older(connection: psycopg.AsyncConnection[Any], limit: int) -> list[int]:
    """Count older rows until none is left; return how many each batch had."""
    counted = [await SINK.count_older_rows(connection, limit)]
    while counted[-1]:
        counted.append(await SINK.count_older_rows(connection, limit))
    return counted


async def _complete_from(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute(statistics_rows.SQL["complete_from"])).fetchone()
    assert row is not None
    return int(row[0])

"""A listing shows the newest change, whichever partitions are quiet; without changes no topic grows."""

from typing import Any

from pipeline.project.ticks import BUSY_TICK_INTERVAL_MS, LOST_TICK_TIMEOUT_MS, Ticker
from pipeline.runtime.bootstrap import Runtime
from pipeline.settings import Settings
from projections.history_queries import latest_projected_time, partition_times
from tests.support.changes import Log, acked, request
from tests.support.projecting import caught_up, ends, projecting, publish
from tests.support.seeing import until


async def watermark(rt: Runtime) -> int:
    async with rt.pool.connection() as connection:
        return await latest_projected_time(connection)


async def test_the_last_change_is_shown_though_the_other_partition_is_quiet(settings: Settings) -> None:
    async with projecting(settings) as rt:
        now = rt.clock()
        await publish(rt, Log().fold(request(1, now)).fold(acked(1, now + 1)).changes)

        async def shown() -> bool:
            return await watermark(rt) >= now + 2

        await until(shown)


async def test_where_nothing_changes_nothing_is_appended(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await publish(rt, Log().fold(request(1, rt.clock())).changes)
        await until(lambda: caught_up(rt))
        before = await ends(settings)
        ticker = Ticker(rt)
        for _ in range(5):
            await ticker.append_due_ticks({0, 1})
        assert await ends(settings) == before


async def test_an_installation_without_an_email_has_no_tick(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await until(lambda: _begun(rt))
        await Ticker(rt).append_due_ticks({0, 1})
        assert not any((await ends(settings)).values())


async def _begun(rt: Runtime) -> bool:
    async with rt.pool.connection() as connection:
        return len(await partition_times(connection)) == 2


async def test_ticks_come_a_second_apart_while_changes_do_and_only_where_the_last_has_arrived(
    settings: Settings,
) -> None:
    from dataclasses import replace

    async with projecting(settings) as rt:
        await until(lambda: _begun(rt))
        now = rt.clock() + 1_000_000
        async with rt.pool.connection() as connection:
            await connection.execute("update projections.next_offsets set changed = %s, through = %s", (now, now))
        said: list[Any] = []

        class Said:
            async def append(self, entries: Any, **_: Any) -> list[None]:
                said.append([entry.partition for entry in entries])
                return [None] * len(entries)

        clock = [now + 1]
        ticker = Ticker(replace(rt, log=Said(), clock=lambda: clock[0]))  # type: ignore[arg-type]  # all that it asks
        for later in (0, 1, BUSY_TICK_INTERVAL_MS, LOST_TICK_TIMEOUT_MS - 1, LOST_TICK_TIMEOUT_MS):
            clock[0] = now + 1 + later
            await ticker.append_due_ticks({1})
        assert said == [[1], [1]], "the first, and again when it seems lost: it was never projected"

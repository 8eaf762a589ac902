"""`mailfold trace` and `mailfold status` on a real log and real tables."""

import io
import re
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pipeline import admin
from pipeline.cli import render
from pipeline.operations import status, trace
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.changes import T0, Log, acked, conversion_result, event, identified, request
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import rows, until
from topics.acks import Deferred
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind
from topics.registry import SEND_REQUESTS

GOLDEN = Path(__file__).parent.parent / "golden" / "trace"


def a_life() -> Log:
    deferred = Deferred(
        email_id=identified(1),
        event_id="deferred:1",
        occurred_at=T0 + 300,
        recorded_at=T0 + 300,
        provider="relay",
        code=451,
        enhanced="4.7.1",
        text="greylisted",
        next_attempt_at=T0 + 60_300,
    )
    log = Log().fold(request(1)).fold(deferred).fold(acked(1, T0 + 60_400))
    opened = msgspec.structs.replace(event(1, EventKind.OPENED, T0 + 65_000), user_agent="Mail/16.0")
    proxied = event(1, EventKind.OPENED, T0 + 64_000, nth=1)
    proxied = msgspec.structs.replace(proxied, machine="mail privacy proxy")
    log.fold(event(1, EventKind.DELIVERED, T0 + 61_000))
    log.fold(event(1, EventKind.DELIVERED, T0 + 61_000)).fold(event(1, EventKind.DELIVERED, T0 + 61_000))
    log.fold(proxied).fold(opened)
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.RETRYING, T0 + 61_002))
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0 + 66_100))
    return log


async def seen(rt: Runtime, name: str) -> str:
    traced = await trace.find(rt, name)
    console = Console(file=io.StringIO(), width=180)
    render.print_traces(console, traced)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


async def test_a_trace_tells_the_whole_life_in_causal_order(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await publish(rt, a_life().changes)
        await until(lambda: caught_up(rt))
        async with rt.pool.connection() as connection:
            await connection.execute(
                "update jobs.jobs set attempts = 3, due_at = 'epoch', last_error = 'HTTP 500' where name = 'open'"
            )
            await connection.execute(
                "insert into jobs.lanes (queue, lane, paused_at, paused_reason)"
                " values ('emit', 'acme/2', '2026-01-02 03:04:05.678+00', 'HTTP 401: wrong X-API-KEY')"
            )
        text = await seen(rt, "activity-1")
        as_json = msgspec.json.encode(await trace.find(rt, "activity-1"))
    assert text == (GOLDEN / "a_life.txt").read_text()
    assert msgspec.json.decode(as_json)["traces"][0]["lines"][0]["what"] == "accepted"


@pytest.mark.parametrize(
    "name", ["activity-1", identified(1), identified(1).upper(), "player1@example.com", "1@relay", "<1@relay>"]
)
async def test_an_email_is_found_by_each_of_its_names(settings: Settings, name: str) -> None:
    async with projecting(settings) as rt:
        await publish(rt, a_life().changes)
        await until(lambda: caught_up(rt))
        [traced] = (await trace.find(rt, name)).traces
        assert (traced.email_id, traced.status) == (identified(1), "opened")
        assert (await trace.find(rt, name, "another-tenant")).traces == []


async def test_an_address_with_many_emails_shows_the_newest_and_says_so(settings: Settings) -> None:
    async with projecting(settings) as rt:
        log = Log()
        for number in range(1, 31):
            log.fold(msgspec.structs.replace(request(number, T0 + number), recipient="anna@example.com"))
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt))
        traced = await trace.find(rt, "anna@example.com")
        assert [each.email_id for each in traced.traces] == [identified(number) for number in range(30, 20, -1)]
        assert traced.more
        assert "the newest 10 of more" in await seen(rt, "anna@example.com")


@pytest.mark.parametrize("name", [identified(5), "activity-5"])
async def test_what_no_table_knows_yet_is_found_at_the_log_s_end(settings: Settings, name: str) -> None:
    async with open_runtime(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        wishes = [request(number) for number in range(1, 20)]
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, wish.email_id, wish) for wish in wishes])
        text = await seen(rt, name)
    assert "accepted but not yet projected" in text
    assert re.search(r"send-requests/\d/\d+", text)
    assert "player5@example.com" in text


async def test_a_name_that_nobody_goes_by_finds_nothing(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        for name in ("", "nobody", "00000000-0000-0000-0000-000000000000", "\x00", "😀" * 500):
            assert (await trace.find(rt, name)).traces == []


async def test_an_unknown_job_and_its_follower_without_a_due_time_are_told(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await publish(rt, a_life().changes)
        await until(lambda: caught_up(rt))
        async with rt.pool.connection() as connection:
            await connection.execute("update jobs.jobs set state = 'unknown' where name = 'delivered'")
            await connection.execute("update jobs.jobs set due_at = 'infinity' where name = 'open'")
        [traced] = (await trace.find(rt, identified(1))).traces
    assert traced.waits_for == [
        "conversion delivered: was in hand when a process died; you decide (`mailfold dead replay`)",
        "conversion open: behind an earlier one of this email",
    ]


async def test_status_shows_who_is_behind_and_what_is_owed(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await publish(rt, a_life().changes)
        await until(lambda: caught_up(rt))
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, identified(1), request(1))])
        snapshot = await status.read_status(rt)
        behind = {(lag.role, lag.topic): lag.behind for lag in snapshot.lags}
        assert behind["project", "email-changes"] == 0
        assert behind["dispatch", "send-requests"] == 1
        assert behind["worker", "send-requests"] == 1
        assert snapshot.oldest_owed is not None
        assert (snapshot.oldest_owed.email_id, snapshot.oldest_owed.word) == (identified(1), "open")
        console = Console(file=io.StringIO(), width=120)
        render.print_snapshot(console, snapshot)
        assert isinstance(console.file, io.StringIO)
        assert "oldest owed conversion: open of" in console.file.getvalue()
        assert await rows(rt, "select count(*) from jobs.jobs where state = 'pending'") == [(1,)]

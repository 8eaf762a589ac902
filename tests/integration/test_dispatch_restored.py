"""A dispatcher whose database was restored to an older moment, or lags, sends nothing twice and everything once."""

from collections import Counter

import pytest

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres import leader
from pipeline.settings import Settings
from tests.support.caught_up import CaughtUp
from tests.support.dispatching import FAST, accept, dispatching, in_state, provide
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from tests.support.working import working
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest

TABLES = ("jobs", "lanes", "next_offsets")
LANE = "acme/7"


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


async def idle(_: Runtime) -> None:
    """Stand for a role, so that a runtime is open without a dispatcher."""


async def save(settings: Settings) -> None:
    """Copy the tables of jobs, as a backup does."""
    async with working(settings, idle) as rt, rt.pool.connection() as connection:
        for table in TABLES:
            await connection.execute(f"create table public.saved_{table} as table jobs.{table}".encode())


async def restore(settings: Settings) -> None:
    """Replace the tables of jobs with the copies."""
    async with working(settings, idle) as rt, rt.pool.connection() as connection:
        for table in TABLES:
            await connection.execute(f"truncate jobs.{table}".encode())
            await connection.execute(f"insert into jobs.{table} select * from public.saved_{table}".encode())


async def send_around_a_backup(settings: Settings, receiver: Receiver, caught_up: CaughtUp) -> list[SendRequest]:
    """Send five emails, save the tables while ten more are due, send these and ten later ones; return all requests."""
    async with dispatching(settings) as rt:
        await provide(rt, receiver.port)
        sent = await accept(rt, *[f"before{number}@example.com" for number in range(5)])
        await in_state(rt, "done")
        await rows(
            rt, "insert into jobs.lanes (queue, lane, paused_at) values ('dispatch', %s, now()) returning 1", LANE
        )
        sent += await accept(rt, *[f"due{number}@example.com" for number in range(10)])
        await caught_up.queue("dispatch", "send-requests", "provider-acks")
    async with working(settings, idle) as rt:
        await rows(rt, "delete from jobs.lanes returning 1")
    await save(settings)
    async with dispatching(settings) as rt:
        sent += await accept(rt, *[f"later{number}@example.com" for number in range(10)])
        await until(lambda: len(receiver.mails) == 25)
        await in_state(rt, "done")
    return sent


async def test_restored_database_sends_nothing_again_and_later_requests_once(
    quick: Settings, caught_up: CaughtUp
) -> None:
    async with smtp_receiver() as receiver:
        sent = await send_around_a_backup(quick, receiver, caught_up)
        await restore(quick)
        async with dispatching(quick) as rt, dispatching(quick):
            # The gateway's reservations are older, too, so that a repeated batch is on the log once more.
            await append_all(rt.log, [LogEntry(SEND_REQUESTS, each.email_id, each) for each in sent[::4]])
            await accept(rt, *[f"new{number}@example.com" for number in range(5)])
            await until(lambda: len([mail for mail in receiver.mails if mail.recipient.startswith("new")]) == 5)
            await caught_up.queue("dispatch", "send-requests", "provider-acks")
            await in_state(rt, "done")
            assert await rows(rt, "select count(*) from jobs.jobs") == [(30,)]
    times = Counter(mail.recipient for mail in receiver.mails)
    assert {recipient: number for recipient, number in times.items() if number != 1} == {}


async def test_lease_of_restored_database_ends_with_the_deferral_of_a_later_attempt(
    quick: Settings, caught_up: CaughtUp
) -> None:
    slow = quick.model_copy(update={"dispatch_schedule": (0.1, 3600.0)})
    async with smtp_receiver() as receiver:
        receiver.rcpt["slowly@example.com"] = ["450 4.2.1 later"]
        async with dispatching(slow) as rt:
            await provide(rt, receiver.port)
            await accept(rt, "slowly@example.com")
            await until(lambda: rows(rt, "select 1 from jobs.jobs where state = 'pending' and attempts = 2"))
            await caught_up.queue("dispatch", "provider-acks")
        async with working(slow, idle) as rt:
            await rows(rt, "update jobs.jobs set state = 'attempting', attempts = 1, due_at = now() returning 1")
            await rows(rt, "update jobs.next_offsets set next_offset = 0 where topic = 'provider-acks' returning 1")
        async with dispatching(slow) as rt:
            await until(lambda: rows(rt, "select 1 from jobs.jobs where state = 'pending' and attempts = 2"))
            due_later = "select due_at > now() + interval '30 minutes', lease_token is null from jobs.jobs"
            assert await rows(rt, due_later) == [(True, True)]
    assert receiver.asked == 2


async def test_log_that_is_shorter_than_what_was_read_stops_the_dispatcher(
    quick: Settings, caught_up: CaughtUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "LOG_END_TIMEOUT_S", 0.0)
    monkeypatch.setattr(leader, "LOST_LOG_INTERVAL_S", 0.2)
    async with smtp_receiver() as receiver:
        async with dispatching(quick) as rt:
            await provide(rt, receiver.port)
            await accept(rt, "anna@example.com")
            await in_state(rt, "done")
            await caught_up.queue("dispatch", "send-requests", "provider-acks")
        async with working(quick, idle) as rt:
            await rows(rt, "update jobs.next_offsets set next_offset = 1000 where topic = 'provider-acks' returning 1")
            await accept(rt, "bert@example.com")
        async with dispatching(quick) as rt:

            async def stands_still() -> bool:
                return "provider-acks/0 was read up to offset 1000" in (await rt.health.find_problems()).get(
                    "dispatch", ""
                )

            await until(stands_still)
            assert "mailfold recover" in (await rt.health.find_problems())["dispatch"]
            await rt.health.refresh_gauges()
            lost = {"reader": "dispatch"}
            assert rt.health.metrics.registry.get_sample_value("mailfold_log_lost", lost) == 1
            assert len(receiver.mails) == 1
        # Reading both topics again from their beginnings sends what is missing and nothing twice.
        async with working(quick, idle) as rt:
            await rows(rt, "delete from jobs.next_offsets where queue = 'dispatch' returning 1")
        async with dispatching(quick) as rt:
            await until(lambda: len(receiver.mails) == 2)
            await in_state(rt, "done")
    assert sorted(mail.recipient for mail in receiver.mails) == ["anna@example.com", "bert@example.com"]

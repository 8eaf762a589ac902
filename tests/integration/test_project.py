"""The projector on a real log and a real Postgres."""

import asyncio

import psycopg
import pytest
from aiokafka import AIOKafkaProducer

from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.settings import Settings
from tests.support.changes import T0, Log, event, identified, lives, request
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import on, rows, until
from topics.codec import decode, encode
from topics.events import EventKind
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES


async def test_what_is_on_the_log_is_in_the_tables_and_the_group_knows(settings: Settings) -> None:
    changes = lives(4, 60).changes
    async with projecting(settings) as rt:
        await publish(rt, changes)
        await until(lambda: caught_up(rt))
        [(emails,)] = await rows(rt, "select count(*) from projections.history")
        [(held,)] = await rows(rt, "select count(*) from jobs.jobs where state = 'held'")
    assert emails == len({change.email_id for change in changes})
    assert held == 0


async def test_a_log_that_was_full_before_the_first_projector_came_is_released_at_its_end(settings: Settings) -> None:
    changes = lives(5, 40).changes
    async with open_runtime(settings) as rt:
        await publish(rt, changes)
    async with projecting(settings) as rt:
        await until(lambda: caught_up(rt))
        assert await rows(rt, "select count(*) from jobs.jobs where state = 'held'") == [(0,)]
        [(pending,)] = await rows(rt, "select count(*) from jobs.jobs where state = 'pending'")
    assert pending


async def test_transaction_markers_at_the_log_s_end_are_passed(settings: Settings) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id=settings.topic_prefix)
    await producer.start()
    topic = settings.topic(EMAIL_CHANGES.name)
    from topics.codec import encode

    for change in log.changes:
        async with producer.transaction():
            await producer.send_and_wait(topic, encode(EMAIL_CHANGES, change), key=change.email_id.encode())
    await producer.stop()
    async with projecting(settings) as rt:
        await until(lambda: caught_up(rt))
        assert await rows(rt, "select state from jobs.jobs") == [("pending",)]


async def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(settings: Settings) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    topic = settings.topic(EMAIL_CHANGES.name)
    await producer.send_and_wait(topic, b'{"type":"love-letter/1"}', key=identified(1).encode())
    await producer.stop()
    async with projecting(settings) as rt:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt))
        assert await rows(rt, "select status from projections.history") == [("delivered",)]
        reader = create_consumer(settings, DEAD_LETTERS.name)
        await reader.start()
        letter = decode(DEAD_LETTERS, (await asyncio.wait_for(reader.getone(), 10)).value)
        await reader.stop()
    assert (letter.reason, letter.role, letter.value) == ("undecodable", "project", b'{"type":"love-letter/1"}')
    assert letter.source.topic == "email-changes"


async def test_newer_version_halts_its_partition_and_is_no_dead_letter(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    newer = encode(EMAIL_CHANGES, log.changes[1]).replace(b"email-change/1", b"email-change/2")
    async with projecting(settings) as rt:
        await publish(rt, log.changes[:1])
        await until(lambda: caught_up(rt))
        await rt.log.append_raw(EMAIL_CHANGES.name, identified(1).encode(), newer)
        logged: list[str] = []

        def halted() -> list[str]:
            logged.extend(capsys.readouterr().err.splitlines())
            return [line for line in logged if "projection halted" in line]

        [line] = await until(halted)
        assert "email-change/2 is newer than email-change/1" in line
        assert await rows(rt, "select status from projections.history") == [("accepted",)]
    assert await on(settings, DEAD_LETTERS) == []


async def test_a_second_projector_takes_over_without_a_gap_or_a_repeat(settings: Settings) -> None:
    log = lives(6, 60)
    async with projecting(settings) as first:
        await publish(first, log.changes[:40])
        async with projecting(settings) as second:
            await publish(second, log.changes[40:])
            await until(lambda: caught_up(second))
    async with open_runtime(settings) as rt:
        [(emails,)] = await rows(rt, "select count(*) from projections.history")
    assert emails == len({change.email_id for change in log.changes})


async def test_a_postgres_that_drops_its_connections_is_waited_for(settings: Settings) -> None:
    log = lives(7, 60)
    async with projecting(settings) as rt:
        await publish(rt, log.changes[:50])
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as other:
            for _ in range(3):
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
                await publish(rt, log.changes[50:55])
        await publish(rt, log.changes[55:])
        await until(lambda: caught_up(rt))
        [(emails,)] = await rows(rt, "select count(*) from projections.history")
    assert emails == len({change.email_id for change in log.changes})


async def test_a_change_is_readable_soon_after_it_was_published(settings: Settings) -> None:
    """Not a measurement: the loop must be woken by the log, not by a timer of seconds."""
    async with projecting(settings) as rt:
        await publish(rt, Log().fold(request(1)).changes)
        await until(lambda: caught_up(rt))
        for number in range(2, 12):
            await publish(rt, Log().fold(request(number)).changes)
            wanted = f"select true from projections.history where email_id = '{identified(number)}'"

            async def there(query: str = wanted) -> bool:
                return bool(await rows(rt, query))

            await until(there)

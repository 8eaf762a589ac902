"""Dead letters on a real log: an oversized record holds no reader up, and a replay appends the whole record."""

import time

import pytest
from aiokafka import AIOKafkaProducer

from pipeline.errors import NotFound, Refused
from pipeline.operations import dead_letters
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.changes import T0, Log, event, identified, request
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import on, rows, until
from topics.codec import encode
from topics.dead_letters import MAX_VALUE_BYTES, dead_letter
from topics.events import EventKind
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, PROVIDER_WEBHOOKS, SUPPRESSIONS
from topics.webhooks import RawWebhook

HUGE_BYTES = 3_000_000


async def put_compressed(settings: Settings, topic: str, partition: int, value: bytes) -> int:
    """Append as a foreign program may; the record's offset."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, compression_type="gzip", max_request_size=2 * HUGE_BYTES
    )
    await producer.start()
    try:
        sent = await producer.send_and_wait(settings.topic(topic), value, key=b"k", partition=partition)
        return int(sent.offset)
    finally:
        await producer.stop()


@pytest.mark.parametrize("topic", [EMAIL_CHANGES, SUPPRESSIONS], ids=lambda topic: topic.name)
async def test_oversized_record_is_passed_by_the_projector(settings: Settings, topic: object) -> None:
    name = topic.name  # type: ignore[attr-defined]
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    await put_compressed(settings, name, 0, b"v" * HUGE_BYTES)
    async with projecting(settings) as rt:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt))
        assert await rows(rt, "select status from projections.history") == [("delivered",)]
        await until(lambda: on(settings, DEAD_LETTERS))
        [letter] = await on(settings, DEAD_LETTERS)
        assert (letter.source.topic, len(letter.value), letter.cut) == (
            name,
            MAX_VALUE_BYTES,
            HUGE_BYTES - MAX_VALUE_BYTES,
        )
        with pytest.raises(Refused, match="3000000 bytes"):
            await dead_letters.replay(rt, "dead-letters/0/0")


async def test_replay_of_a_webhooks_event_appends_the_webhook_again(settings: Settings) -> None:
    webhook = RawWebhook(
        webhook_id="w", provider="p", kind="sendgrid", received_at=time.time_ns() // 10**6, headers=(), body=b"[7]"
    )
    async with open_runtime(settings) as rt:
        await append_all(rt.log, [LogEntry(PROVIDER_WEBHOOKS, None, webhook, partition=1)])
        source = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=1, offset=0)
        letter = dead_letter(source, 9, "unrecognised", "event 0", role="normalize", key=None, value=b"7")
        await append_all(rt.log, [LogEntry(DEAD_LETTERS, None, letter)])
        await dead_letters.replay(rt, "dead-letters/0/0")
    assert await on(settings, PROVIDER_WEBHOOKS) == [webhook, webhook]


async def test_replay_of_a_cut_letter_whose_record_is_gone_says_so(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        value = encode(EMAIL_CHANGES, Log().fold(request(1)).changes[0]) + b" " * MAX_VALUE_BYTES
        source = LogPosition(topic=EMAIL_CHANGES.name, partition=0, offset=99)
        letter = dead_letter(source, 9, "undecodable", "", role="project", key=identified(1).encode(), value=value)
        await append_all(rt.log, [LogEntry(DEAD_LETTERS, None, letter)])
        with pytest.raises(NotFound, match="email-changes/0/99"):
            await dead_letters.replay(rt, "dead-letters/0/0")
    assert await on(settings, EMAIL_CHANGES) == []

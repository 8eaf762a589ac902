"""A record of a newer version that an operator skips: every role passes over it, and it is kept as a dead letter."""

import asyncio
from typing import Any

import pytest

from pipeline.errors import NotFound, Refused
from pipeline.operations import skipping
from pipeline.operations.rebuild import rebuild
from pipeline.operations.skipping import skip_record
from pipeline.runtime.bootstrap import Runtime, wall_clock
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.kafka.skipped_records import SKIPPED, SkippedRecords
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.changes import Log, acked, event, identified
from tests.support.changes import request as numbered
from tests.support.command import mailfold_on
from tests.support.dispatching import FAST, accept, dispatching, in_state, provide, request
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.worker import Worker, append_raw, dump, feed
from topics.codec import encode
from topics.dead_letters import DeadLetter, dead_letter, value_digest
from topics.events import EventKind
from topics.record import LogPosition
from topics.registry import (
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    MESSAGE_CONTENTS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    TEMPLATES,
    UNCORRELATED_EVENTS,
    Topic,
)
from topics.requests import ContentPointer

NOW = wall_clock()
REASON = "junk of a test"
KEY = identified(1).encode()
NEWER_ACK = encode(PROVIDER_ACKS, acked(1, NOW)).replace(b"acked/1", b"acked/2")
NEWER_EVENT = b'{"type":"delivery-event/2"}'
NEWER_WEBHOOK = b"\x81\xa4type\xadraw-webhook/2"
NEWER_CONTENT = b"\x81\xa4type\xafcontent-chunk/2"
NEWER_TEMPLATE = b'{"type":"template/2"}'


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


async def append_junk(settings: Settings, *records: tuple[Topic, bytes]) -> list[LogPosition]:
    """Append records, and return where they lie."""
    for topic, value in records:
        await append_raw(settings, topic, KEY, value)
    return [
        next(place for place, _, found in await dump(settings, topic) if found == value) for topic, value in records
    ]


async def skip(settings: Settings, *places: LogPosition) -> None:
    for place in places:
        await skip_record(settings, place, REASON, wall_clock)


async def skip_by_command(settings: Settings, place: LogPosition) -> None:
    arguments = (place.topic, str(place.partition), str(place.offset), "--reason", REASON)
    done = await mailfold_on(settings, "topics", "skip", *arguments)
    assert f"{place} is skipped and kept as dead-letters/0/0" in done.out, done.err


async def assert_kept(settings: Settings, *places: LogPosition) -> None:
    letters: list[DeadLetter] = await on(settings, DEAD_LETTERS)
    assert [letter.source for letter in letters] == list(places)
    assert {(letter.reason, letter.role) for letter in letters} == {("skipped", "operator")}
    assert all(letter.error.startswith(f"{REASON} (") and letter.value for letter in letters)


async def test_worker_ends_until_each_junk_record_is_skipped(settings: Settings, tmp_path: Any) -> None:
    ack, webhook, event_place = await append_junk(
        settings, (PROVIDER_ACKS, NEWER_ACK), (PROVIDER_WEBHOOKS, NEWER_WEBHOOK), (DELIVERY_EVENTS, NEWER_EVENT)
    )
    good = [
        LogEntry(SEND_REQUESTS, identified(1), numbered(1, NOW)),
        LogEntry(PROVIDER_ACKS, identified(1), acked(1, NOW)),
    ]
    good.append(LogEntry(DELIVERY_EVENTS, identified(1), event(1, EventKind.DELIVERED, NOW)))
    await feed(settings, good)
    with Worker(settings, tmp_path / "worker") as worker:
        assert await asyncio.to_thread(worker.process.wait, 40) == 1
        assert "newer than" in worker.log.read_text()
        await skip_by_command(settings, ack)
        await skip(settings, webhook, event_place)
        worker.start()
        await until(lambda: is_folded(settings), 60)
        assert worker.terminate() == 0
    await assert_kept(settings, ack, webhook, event_place)


async def test_letter_of_another_record_at_that_place_skips_nothing(settings: Settings) -> None:
    """As on another cluster, to which the dead letters were copied: offsets differ there."""
    [place] = await append_junk(settings, (PROVIDER_ACKS, NEWER_ACK))
    elsewhere = dead_letter(place, NOW, SKIPPED, REASON, role="operator", key=KEY, value=b"another")
    await feed(settings, [LogEntry(DEAD_LETTERS, None, elsewhere)])
    digest = value_digest(NEWER_ACK)
    assert not await SkippedRecords(settings).include(place, digest)
    await skip(settings, place)
    assert await SkippedRecords(settings).include(place, digest)


async def is_folded(settings: Settings) -> bool:
    """Return whether the request, the ack and the event behind the junk are folded."""
    changes = await on(settings, EMAIL_CHANGES)
    return sum(len(change.facts) for change in changes) == 3


async def test_both_readers_of_the_dispatcher_pass_over_a_skipped_ack(quick: Settings) -> None:
    [ack, waiting] = await append_junk(quick, (PROVIDER_ACKS, NEWER_ACK), (UNCORRELATED_EVENTS, NEWER_EVENT))
    await skip(quick, ack, waiting)
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        [sent] = await accept(rt, "bert@example.com")
        await in_state(rt, "done")
        offset = "select 1 from correlation.next_offsets where topic = %s and next_offset > %s"
        await until(lambda: rows(rt, offset, ack.topic, ack.offset))
        await until(lambda: rows(rt, offset, waiting.topic, waiting.offset))
    assert [mail.recipient for mail in receiver.mails] == [sent.recipient]
    await assert_kept(quick, ack, waiting)


async def test_email_whose_content_is_skipped_fails_and_others_are_sent(quick: Settings) -> None:
    [place] = await append_junk(quick, (MESSAGE_CONTENTS, NEWER_CONTENT))
    await skip(quick, place)
    pointer = ContentPointer(content_id="c", partition=place.partition, offset=place.offset, chunks=1, sha256="0" * 64)
    lost = request("anna@example.com", content=pointer)
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, lost.email_id, lost)])
        [sent] = await accept(rt, "bert@example.com")
        await until(lambda: has_state(rt, lost.email_id, "dead"))
        await until(lambda: has_state(rt, sent.email_id, "done"))


async def has_state(rt: Runtime, email_id: str, state: str) -> bool:
    return await rows(rt, "select state from jobs.jobs where stream = %s", email_id) == [(state,)]


async def test_projection_and_rebuild_pass_over_a_skipped_change(settings: Settings) -> None:
    [place, template] = await append_junk(
        settings, (EMAIL_CHANGES, b'{"type":"email-change/2"}'), (TEMPLATES, NEWER_TEMPLATE)
    )
    await skip(settings, place, template)
    async with projecting(settings) as rt:
        await publish(rt, Log().fold(numbered(1, NOW)).fold(acked(1, NOW)).changes)
        await until(lambda: caught_up(rt), 30)
        assert await rows(rt, "select status from projections.history") == [("sent",)]
        await until(lambda: rows(rt, "select 1 from templates.next_offsets where next_offset > 0"))
        result = await rebuild(rt, lambda _read, _total: None)
        assert (result.swapped, list(result.differences)) == (True, [])
    await assert_kept(settings, place, template)


async def test_only_a_record_of_a_newer_version_can_be_skipped_and_once(settings: Settings) -> None:
    [newer, damaged, readable] = await append_junk(
        settings,
        (PROVIDER_ACKS, NEWER_ACK),
        (PROVIDER_ACKS, b"{"),
        (PROVIDER_ACKS, encode(PROVIDER_ACKS, acked(1, NOW))),
    )

    async def refusal(place: LogPosition) -> str:
        with pytest.raises((Refused, NotFound)) as caught:
            await skip_record(settings, place, "junk", wall_clock)
        return str(caught.value)

    for place in (damaged, readable):
        assert "no newer version than this program knows" in await refusal(place)
    missing = LogPosition(topic=newer.topic, partition=newer.partition, offset=newer.offset + 9)
    assert "the log has no record" in await refusal(missing)
    assert "no partition" in await refusal(LogPosition(topic=newer.topic, partition=99, offset=0))
    assert "no topic of Mailfold's" in await refusal(LogPosition(topic="elsewhere", partition=0, offset=0))
    for topic in skipping.UNREAD_TOPICS:
        assert "nothing in it can be skipped" in await refusal(LogPosition(topic=topic.name, partition=0, offset=0))
    await skip_record(settings, newer, "junk", wall_clock)
    assert "is skipped already" in await refusal(newer)
    assert len(await on(settings, DEAD_LETTERS)) == 1


async def test_dead_letter_of_a_newer_version_hides_no_skipped_record(settings: Settings) -> None:
    """A version that was rolled back may have left one."""
    [newer, _] = await append_junk(settings, (PROVIDER_ACKS, NEWER_ACK), (DEAD_LETTERS, b'{"type":"dead-letter/2"}'))
    await skip_record(settings, newer, "junk", wall_clock)
    assert await SkippedRecords(settings).include(newer, value_digest(NEWER_ACK))

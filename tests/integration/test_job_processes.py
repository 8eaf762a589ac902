"""Dispatch and emit as separate processes that are killed, frozen or stopped: nothing is lost, repeats keep ids."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from pipeline.worker.fold import evolve
from tests.integration.test_emit import destine, owe
from tests.support.command import armed, ends, process
from tests.support.dispatching import accept, provide
from tests.support.http_receiver import http_receiver
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.acks import Acked
from topics.changes import AppliedFact, EmailChange
from topics.conversions import ConversionWord
from topics.events import DeliveryEvent, EventKind
from topics.record import LogPosition
from topics.registry import CONVERSION_RESULTS, DELIVERY_EVENTS, EMAIL_CHANGES, PROVIDER_ACKS
from topics.requests import SendRequest

MAILS = 40


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """What a killed role had in hand is free again soon."""
    return settings.model_copy(update={"lease_seconds": 2.0})


@pytest.mark.parametrize("point", ["dispatch.after-250", "dispatch.after-ack"])
async def test_dispatcher_crash_after_250_loses_nothing_and_repeats_only_jobs_in_hand(
    settings: Settings, tmp_path: Path, point: str
) -> None:
    async with smtp_receiver() as receiver, open_runtime(settings) as rt:
        await provide(rt, receiver.port)
        sent = await accept(rt, *[f"user{number}@example.com" for number in range(MAILS)])
        async with process(settings, "dispatch", **armed(point, tmp_path)) as first:
            assert await ends(first) == 137
        async with process(settings, "dispatch"):
            await until(lambda: _done(rt, MAILS), 40)
    acks = await on(settings, PROVIDER_ACKS)
    assert {ack.email_id for ack in acks if isinstance(ack, Acked)} == {request.email_id for request in sent}
    by_recipient: dict[str, set[str]] = {}
    for mail in receiver.mails:
        by_recipient.setdefault(mail.recipient, set()).add(mail.message_id)
    assert len(by_recipient) == MAILS
    assert all(len(ids) == 1 for ids in by_recipient.values()), "a repeat carries the same Message-ID"
    assert max(Counter(mail.recipient for mail in receiver.mails).values()) <= 2, "at most one repeat per crash"


@pytest.mark.parametrize("point", ["emit.after-2xx", "emit.after-result"])
async def test_emitter_crash_after_2xx_keeps_order_and_repeats_with_same_key(
    settings: Settings, tmp_path: Path, point: str
) -> None:
    words = (ConversionWord.DELIVERED, ConversionWord.OPEN, ConversionWord.CLICK)
    async with http_receiver() as receiver, open_runtime(settings) as rt:
        await destine(rt, receiver.url)
        emails = [await owe(rt, *words) for _ in range(20)]
        async with process(settings, "emit", **armed(point, tmp_path)) as first:
            assert await ends(first) == 137
        async with process(settings, "emit"):
            await until(lambda: _done(rt, 60), 40)
    for email in emails:
        arrived_words = [seen.word for seen in receiver.seen if seen.body["email_id"] == email]
        assert list(dict.fromkeys(arrived_words)) == [word.value for word in words]
    assert max(Counter(seen.headers["Idempotency-Key"] for seen in receiver.seen).values()) <= 2
    results = await on(settings, CONVERSION_RESULTS)
    assert len({(result.email_id, result.word) for result in results}) == 60


async def test_dispatcher_frozen_past_its_leases_loses_nothing_and_keeps_message_ids(settings: Settings) -> None:
    async with smtp_receiver() as receiver, open_runtime(settings) as rt:
        await provide(rt, receiver.port, max_connections=2)
        receiver.slow = {f"user{number}@example.com": 0.05 for number in range(MAILS)}
        async with process(settings, "dispatch") as frozen:
            sent = await accept(rt, *[f"user{number}@example.com" for number in range(MAILS)])
            await until(lambda: len(receiver.mails) > 3)
            frozen.send_signal(signal.SIGSTOP)
            async with process(settings, "dispatch"):
                await until(lambda: _done(rt, MAILS), 40)
                frozen.send_signal(signal.SIGCONT)
                more = await accept(rt, *[f"more{number}@example.com" for number in range(10)])
                await until(lambda: _done(rt, MAILS + 10), 40)
    counts = Counter(mail.recipient for mail in receiver.mails)
    assert len(counts) == len(sent) + len(more)
    assert all(count == 1 for recipient, count in counts.items() if recipient.startswith("more"))
    assert max(counts.values()) <= 2
    assert len({mail.message_id for mail in receiver.mails}) == len(counts)


async def test_sent_email_is_not_dropped_because_of_its_own_complaint(settings: Settings, tmp_path: Path) -> None:
    """The dispatcher dies after the 250. Before its lease runs out, a complaint suppresses the recipient."""
    async with smtp_receiver() as receiver, open_runtime(settings) as rt:
        await provide(rt, receiver.port)
        sent = await accept(rt, "angry@example.com")
        async with process(settings, "dispatch", **armed("dispatch.after-250", tmp_path)) as first:
            assert await ends(first) == 137
        async with process(settings, "project"):
            await append_all(rt.log, [LogEntry(EMAIL_CHANGES, sent[0].email_id, _complaint(sent[0]))])
            await until(lambda: _suppressed(rt), 30)
        async with process(settings, "dispatch"):
            await until(lambda: _done(rt, 1), 40)
    assert len(receiver.mails) == 1, "nobody who complained gets it again"
    [ack] = await on(settings, PROVIDER_ACKS)
    assert isinstance(ack, Acked)
    assert ack.attempt == 2


def _complaint(request: SendRequest) -> EmailChange:
    at = request.recorded_at
    event = DeliveryEvent(
        email_id=request.email_id,
        event_id="sendgrid:complaint",
        kind=EventKind.COMPLAINED,
        occurred_at=at,
        recorded_at=at,
        provider="sendgrid",
    )
    place = LogPosition(topic=DELIVERY_EVENTS.name, partition=0, offset=0)
    state = evolve(evolve(None, request), event)
    return EmailChange(
        email_id=request.email_id, recorded_at=at, facts=(AppliedFact(place=place, fact=event),), state=state
    )


async def _suppressed(rt: Runtime) -> bool:
    return bool(await rows(rt, "select from projections.evidence"))


@pytest.mark.parametrize("role", ["dispatch", "emit"])
async def test_role_stops_within_ten_seconds_of_sigterm(settings: Settings, role: str) -> None:
    async with smtp_receiver() as mails, http_receiver() as conversions, open_runtime(settings) as rt:
        conversions.answers = ["slow"]
        mails.slow = {f"user{number}@example.com": 5.0 for number in range(100)}
        await provide(rt, mails.port)
        await destine(rt, conversions.url)
        await accept(rt, *mails.slow)
        for _ in range(100):
            await owe(rt, ConversionWord.DELIVERED)
        async with process(settings, role) as started:
            await until(lambda: mails.asked > 0 or conversions.busy > 0)
            started.terminate()
            assert await ends(started, 10.0) == 0


async def _done(rt: object, count: int) -> bool:
    return await rows(rt, "select count(*) from jobs.jobs where state = 'done'") == [(count,)]  # type: ignore[arg-type]

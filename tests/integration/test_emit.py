"""The emitter against a real log, a real database and a real HTTP server instead of Fast Track."""

import time
import uuid
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate

import msgspec
import pytest

from pipeline import admin
from pipeline.admin import Destination, Tenant
from pipeline.emit import main as emit
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.operations import dead_letters
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from projections.pending_conversions import PendingConversion, encode_conversion
from tests.conftest import RING
from tests.support.http_receiver import http_receiver
from tests.support.seeing import on, rows, until
from tests.support.working import working
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.record import EmailId
from topics.registry import CONVERSION_RESULTS

ACTIVITY = b'{"id": "a-1",  "brand_id": 7, "user_id":123456789012345678901234567890, "new": [1.50, null]}'
WORDS = (ConversionWord.DELIVERED, ConversionWord.OPEN, ConversionWord.CLICK)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"emit_schedule": (0.05, 0.05, 0.05), "emit_timeout": 1.0, "lease_seconds": 2.0})


def emitting(settings: Settings) -> AbstractAsyncContextManager[Runtime]:
    return working(settings, emit.run)


async def owe(rt: Runtime, *words: ConversionWord, brand: str = "7", email: str = "") -> EmailId:
    """Debts as the projector books them."""
    stream = EmailId(email or str(uuid.uuid4()))
    async with rt.pool.connection() as connection:
        for seq, word in enumerate(words, 1):
            debt = PendingConversion(
                email_id=stream, word=word, tenant="acme", brand=brand, activity=msgspec.Raw(ACTIVITY)
            )
            await connection.execute(
                "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
                " values ('emit', %s, %s, %s, %s, 'pending', %s)",
                (stream, seq, word.value, debt.lane, encode_conversion(debt)),
            )
        await connection.execute("select pg_notify('jobs_emit', '')")
    return stream


async def destine(rt: Runtime, url: str, brand: str = "7") -> None:
    await admin.add_tenant(rt.pool, Tenant("acme"))
    await admin.add_destination(rt.pool, Destination("acme", brand, url, "their-key"), RING)


async def in_state(rt: Runtime, *states: str) -> None:
    async def there() -> bool:
        found = {state for (state,) in await rows(rt, "select distinct state from jobs.jobs")}
        return bool(found) and found <= set(states)

    await until(there)


async def paused(rt: Runtime) -> str:
    found = await rows(rt, "select paused_reason from jobs.lanes where paused_at is not null")
    return str(found[0][0]) if found else ""


async def outcomes(settings: Settings) -> list[tuple[str, int, int]]:
    found: list[ConversionResult] = await on(settings, CONVERSION_RESULTS)
    return [(result.outcome.value, result.attempt, result.status) for result in found]


@pytest.mark.parametrize("is_projected_in_part", [False, True])
async def test_restored_database_tells_no_conversion_again_that_the_log_says_was_told(
    quick: Settings, *, is_projected_in_part: bool
) -> None:
    async with http_receiver() as receiver:
        async with emitting(quick) as rt:
            await destine(rt, receiver.url)
            emails = [await owe(rt, *WORDS) for _ in range(3)]
            await in_state(rt, "done")
            restored = (
                "update jobs.jobs set state = 'pending', attempts = 0, finished_at = null, payload = %s"
                " where stream = %s returning 1"
            )
            debt = PendingConversion(
                email_id=emails[2], word=WORDS[0], tenant="acme", brand="7", activity=msgspec.Raw(ACTIVITY)
            )
        async with open_runtime(quick, signals=False) as rt:
            await rows(rt, restored, encode_conversion(debt), emails[2])
            if is_projected_in_part:  # of one partition, whose jobs the projector finishes now; another is behind
                await rows(rt, "update jobs.jobs set finished_at = now() + '1 hour' where state = 'done' returning 1")
                await rows(
                    rt,
                    "insert into projections.next_offsets (topic, partition, next_offset, through)"
                    " values ('email-changes', 0, 9, 9000000000000), ('email-changes', 1, 1, 1) returning 1",
                )
        async with emitting(quick) as rt:
            await owe(rt, ConversionWord.DELIVERED)
            await in_state(rt, "done")
    assert [len(receiver.seen), len({seen.headers["Idempotency-Key"] for seen in receiver.seen})] == [10, 10]


async def test_conversion_request_follows_specification_with_unchanged_activity(quick: Settings) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        await destine(rt, receiver.url)
        email_id = await owe(rt, ConversionWord.DELIVERED)
        await in_state(rt, "done")
    [seen] = receiver.seen
    assert seen.path == "/hook/email/conversion"
    expected = b'{"activity":' + ACTIVITY + f',"email_id":"{email_id}","delivery_status":"delivered"}}'.encode()
    assert seen.raw == expected
    assert seen.headers["X-API-KEY"] == "their-key"
    assert seen.headers["Idempotency-Key"] == f"{email_id}:delivered"
    assert seen.headers["Content-Type"] == "application/json"
    assert await outcomes(quick) == [("delivered", 1, 200)]


async def test_conversions_of_an_email_arrive_in_order_whatever_receiver_answers(quick: Settings) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        receiver.answers = [500, 200, 429, 200, 503, "reset", 200, 302, 200, 200]
        await destine(rt, receiver.url)
        emails = [await owe(rt, *WORDS) for _ in range(10)]
        await in_state(rt, "done", "dead")
    for email in emails:
        words = [seen.word for seen in receiver.seen if seen.body["email_id"] == email]
        first = list(dict.fromkeys(words))
        assert first == [word.value for word in WORDS]
    keys = {(seen.body["email_id"], seen.word): seen.headers["Idempotency-Key"] for seen in receiver.seen}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("status", [410, 422])
async def test_gone_and_unprocessable_are_settled_as_refused(quick: Settings, status: int) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        receiver.answers = [status]
        await destine(rt, receiver.url)
        await owe(rt, ConversionWord.DELIVERED)
        await in_state(rt, "done")
    assert await outcomes(quick) == [("refused", 1, status)]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_denied_access_pauses_destination_without_attempts_until_resumed(quick: Settings, status: int) -> None:
    async with http_receiver() as receiver, http_receiver() as other, emitting(quick) as rt:
        receiver.answers = [status]
        await destine(rt, receiver.url)
        await destine(rt, other.url, brand="8")
        await owe(rt, *WORDS)

        async def stopped() -> bool:
            return await paused(rt) == f"the destination answers {status}"

        await until(stopped)
        await owe(rt, ConversionWord.OPEN, brand="8")
        await until(lambda: len(other.seen) == 1)
        assert len(receiver.seen) == 1
        assert await rows(rt, "select distinct attempts from jobs.jobs where lane = 'acme/7'") == [(0,)]
        receiver.answers = [200]
        await JobStore(rt.pool, "emit", ClaimLimits(1, 1, 1)).resume_lanes(["acme/7"])
        await in_state(rt, "done")
    assert [seen.word for seen in receiver.seen] == ["delivered", "delivered", "open", "click"]


async def test_conversions_wait_for_missing_destination(quick: Settings) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        await owe(rt, *WORDS)

        async def stopped() -> bool:
            return await paused(rt) == "no destination"

        await until(stopped)
        await destine(rt, receiver.url, brand="*")
        await in_state(rt, "done")
        assert await rows(rt, "select distinct attempts from jobs.jobs") == [(1,)]
    assert [seen.word for seen in receiver.seen] == ["delivered", "open", "click"]
    assert [outcome for outcome, *_ in await outcomes(quick)] == ["delivered"] * 3


@pytest.mark.parametrize("answer", [500, 503, 429, 400, 302, "reset", "slow"])
async def test_failing_conversion_follows_schedule_and_becomes_dead_letter(quick: Settings, answer: int | str) -> None:
    settings = quick.model_copy(update={"emit_timeout": 0.3})
    async with http_receiver() as receiver, emitting(settings) as rt:
        receiver.answers = [answer]
        await destine(rt, receiver.url)
        email_id = await owe(rt, ConversionWord.DELIVERED)
        await in_state(rt, "dead")
        assert len(receiver.seen) == 4
        assert {seen.path for seen in receiver.seen} == {"/hook/email/conversion"}, "no redirect is followed"
        told = await outcomes(settings)
        assert [outcome for outcome, *_ in told] == ["retrying"] * 3 + ["given_up"]
        assert [attempt for _, attempt, _ in told] == [1, 2, 3, 4]
        receiver.answers = [200]
        assert await dead_letters.replay(rt, None) == [f"emit/{email_id}/delivered"]
        await in_state(rt, "done")
    assert [told[0] for told in await outcomes(settings)][4:] == ["replayed", "delivered"]
    assert (await outcomes(settings))[-1][1] == 5, "the numbers of attempts go on"


@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_is_respected(quick: Settings, *, dated: bool) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        header = formatdate(time.time() + 2, usegmt=True) if dated else "1"
        receiver.answers = [(429, {"Retry-After": header}), 200]
        await destine(rt, receiver.url)
        await owe(rt, ConversionWord.DELIVERED)
        await until(lambda: len(receiver.seen) == 1)
        first = time.monotonic()
        await in_state(rt, "done")
        # A lower bound can't be missed by a slow machine.
        assert time.monotonic() - first > 0.8
    assert [told[0] for told in await outcomes(quick)] == ["retrying", "delivered"]


async def test_endless_response_only_closes_its_connection(quick: Settings) -> None:
    async with http_receiver() as receiver, emitting(quick) as rt:
        receiver.answers = ["endless"]
        await destine(rt, receiver.url)
        await owe(rt, ConversionWord.DELIVERED)
        await in_state(rt, "done")
    assert await outcomes(quick) == [("delivered", 1, 200)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "127.1"])
async def test_destination_in_private_network_is_not_contacted(quick: Settings, host: str) -> None:
    settings = quick.model_copy(update={"allow_private_destinations": False})
    async with http_receiver() as receiver, emitting(settings) as rt:
        await destine(rt, f"http://{host}:{receiver.port}")
        await owe(rt, ConversionWord.DELIVERED)

        async def stopped() -> bool:
            return "private" in (why := await paused(rt)) or "canonical" in why

        await until(stopped)
        assert await rows(rt, "select state, attempts from jobs.jobs") == [("pending", 0)]
    assert receiver.seen == []


async def test_stuck_brand_does_not_block_others(quick: Settings) -> None:
    settings = quick.model_copy(update={"emit_concurrency": 8, "lane_concurrency": 8, "emit_timeout": 30.0})
    async with http_receiver() as stuck, http_receiver() as fine, emitting(settings) as rt:
        stuck.answers = ["slow"]
        await destine(rt, stuck.url)
        await destine(rt, fine.url, brand="8")
        for _ in range(50):
            await owe(rt, ConversionWord.DELIVERED)
        await until(lambda: stuck.busy > 0)
        for _ in range(20):
            await owe(rt, ConversionWord.DELIVERED, brand="8")
        await until(lambda: len(fine.seen) == 20)
        assert stuck.seen
        assert len(stuck.seen) < 50


async def test_conversion_with_unknown_outcome_is_sent_again_with_same_key(quick: Settings) -> None:
    async with http_receiver() as receiver, open_runtime(quick) as before:
        await destine(before, receiver.url)
        await owe(before, ConversionWord.DELIVERED)
        await JobStore(before.pool, "emit", ClaimLimits(8, 8, 0.3)).claim()
        async with emitting(quick) as rt:
            await in_state(rt, "done")
    assert len(receiver.seen) == 1
    assert await outcomes(quick) == [(ConversionOutcome.DELIVERED.value, 2, 200)]

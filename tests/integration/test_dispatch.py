"""The dispatcher against a real log, a real database and a real mail server."""

import json
import time
from pathlib import Path

import psycopg
import pytest

from pipeline.content.tokens import read_message_id, read_verp_address
from pipeline.dispatch.transports.smtp import _ssl_context
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.secrets.signing import AddressHasher, Signer, hash_address
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.caught_up import CaughtUp
from tests.support.dispatching import FAST, accept, acks, dispatching, in_state, is_broken, provide, request
from tests.support.echoes import echoed
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import certificate, smtp_receiver
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.contents import MessageContent
from topics.ids import event_id
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS, SEND_REQUESTS
from topics.requests import ContentPointer


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


async def test_request_is_sent_and_ack_closes_job(quick: Settings, caught_up: CaughtUp) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, means_delivered=True)
        [sent] = await accept(rt, "anna@example.com")
        await until(lambda: len(receiver.mails) == 1)
        mail = receiver.mails[0]
        assert mail.recipient == "anna@example.com"
        assert mail.message["From"] == "Shop <news@shop.example>"
        assert read_message_id(Signer(RING, "message-id"), mail.message_id) == sent.email_id
        assert read_verp_address(Signer(RING, "verp"), mail.sender) == sent.email_id
        assert "X-SMTPAPI" not in mail.message
        await in_state(rt, "done")
        await caught_up.queue("dispatch", "send-requests", "provider-acks")
        assert await rows(rt, "select payload from jobs.jobs") == [(b"",)]
    [ack] = await on(quick, PROVIDER_ACKS)
    assert isinstance(ack, Acked)
    assert (ack.email_id, ack.code, ack.attempt, ack.provider) == (sent.email_id, 250, 1, "local-7")
    assert (ack.provider_message_id, ack.means_delivered) == ("abc123", True)
    assert ack.event_id == event_id("dispatch", sent.email_id, "acked", "1")


async def test_provider_gets_correlation_header(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, kind="sandbox")
        [sent] = await accept(rt, "anna@example.com")
        await until(lambda: len(receiver.mails) == 1)
    said = str(receiver.mails[0].message["X-SMTPAPI"])
    assert json.loads(said) == {"unique_args": echoed(sent.email_id)}


async def test_repeated_request_is_sent_once(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        [sent] = await accept(rt, "anna@example.com")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)] * 3)
        await accept(rt, "last@example.com")
        await until(lambda: bool(receiver.to("last@example.com")))
        await in_state(rt, "done")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)])
        await accept(rt, "very-last@example.com")
        await until(lambda: bool(receiver.to("very-last@example.com")))
    assert len(receiver.to("anna@example.com")) == 1


async def test_deferred_email_is_retried_and_fails_after_last_attempt(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        receiver.rcpt["slowly@example.com"] = ["450 4.2.1 later", "250 OK"]
        receiver.rcpt["never@example.com"] = ["450 4.2.1 never@example.com is busy"]
        await provide(rt, receiver.port)
        [slowly, never] = await accept(rt, "slowly@example.com", "never@example.com")
        await in_state(rt, "done", "dead")
    found = await on(quick, PROVIDER_ACKS)
    assert [type(ack) for ack in found if ack.email_id == slowly.email_id] == [Deferred, Acked]
    of_never = [ack for ack in found if ack.email_id == never.email_id]
    assert [type(ack) for ack in of_never] == [Deferred, Deferred, Deferred, Failed]
    assert [ack.attempt for ack in of_never] == [1, 2, 3, 4]
    assert of_never[0].next_attempt_at >= of_never[0].occurred_at + 80
    assert (of_never[3].reason, of_never[3].enhanced) == ("gave up", "4.2.1")
    assert "never@" not in of_never[3].text, "no address where it isn't needed"


@pytest.mark.parametrize("stage", ["rcpt", "data"])
async def test_refused_recipient_or_message_is_rejected_at_once(quick: Settings, stage: str) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        getattr(receiver, stage)["nobody@example.com"] = ["550 5.1.1 no such user"]
        await provide(rt, receiver.port)
        await accept(rt, "nobody@example.com", "somebody@example.com")
        await in_state(rt, "done")
    found = {type(ack): ack for ack in await on(quick, PROVIDER_ACKS)}
    assert found.keys() == {Rejected, Acked}
    assert (found[Rejected].code, found[Rejected].enhanced) == (550, "5.1.1")


async def test_suppressed_address_is_dropped_without_contact(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        await rows(
            rt,
            "insert into projections.evidence values ('acme', '7', %s, %s, 'hard bounce', 'e', 1) returning 1",
            hash_address(AddressHasher(RING), "Gone@Example.com"),
            request("x").email_id,
        )
        await accept(rt, "gone@example.COM")
        await in_state(rt, "done")
    assert receiver.connections == 0
    [ack] = await on(quick, PROVIDER_ACKS)
    assert isinstance(ack, Dropped)
    assert ack.reason == "suppressed: hard bounce"


async def test_refused_connection_defers_and_opens_breaker(quick: Settings) -> None:
    async with dispatching(quick) as rt:
        await provide(rt, 1)
        await accept(rt, *[f"user{number}@example.com" for number in range(8)])
        await until(lambda: is_broken(rt, "acme/7"))
    assert set(await acks(quick)) == {"Deferred"}


async def test_brand_without_provider_is_paused_until_it_has_one(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, brand="8")
        await accept(rt, "anna@example.com")

        async def waits() -> bool:
            return await rows(rt, "select lane, paused_reason from jobs.lanes") == [("acme/7", "no provider")]

        await until(waits)
        await provide(rt, receiver.port)
        await until(lambda: bool(receiver.mails))
        await in_state(rt, "done")
        assert await rows(rt, "select attempts from jobs.jobs") == [(1,)]


async def test_starttls_is_used_if_offered(quick: Settings, tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    async with smtp_receiver(tls_context=context) as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        await accept(rt, "anna@example.com")
        await until(lambda: bool(receiver.mails))
    assert receiver.mails[0].tls


async def test_required_tls_verifies_certificate(
    quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certificate(tmp_path)
    _ssl_context.cache_clear()
    async with smtp_receiver(tls_context=context) as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, tls="required")
        await accept(rt, "anna@example.com")
        await until(lambda: is_broken(rt, "acme/7"))
        assert receiver.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        _ssl_context.cache_clear()
        await until(lambda: bool(receiver.mails))
        await in_state(rt, "done")
    _ssl_context.cache_clear()
    assert receiver.mails[0].tls
    assert await acks(quick) == ["Acked"]


async def test_required_tls_never_sends_plain_text(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, tls="required")
        await accept(rt, "anna@example.com")
        await until(lambda: is_broken(rt, "acme/7"))
        assert await rows(rt, "select state, attempts from jobs.jobs") == [("pending", 0)]
    assert receiver.mails == []


async def test_connections_are_reused_within_limit_of_provider(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, max_connections=3)
        await accept(rt, *[f"user{number}@example.com" for number in range(60)])
        await until(lambda: len(receiver.mails) == 60)
        await in_state(rt, "done")
    assert receiver.open_most <= 3
    assert receiver.connections <= 3
    assert len({mail.message_id for mail in receiver.mails}) == 60


async def test_stale_connection_counts_no_attempt(quick: Settings) -> None:
    async with smtp_receiver(timeout=0.3) as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, max_connections=1)
        for number in range(3):
            await accept(rt, f"user{number}@example.com")
            await until(lambda sent=number: len(receiver.mails) == sent + 1)  # type: ignore[misc]
            await until(lambda: receiver.open_now == 0)
        await in_state(rt, "done")
    assert await acks(quick) == ["Acked"] * 3


async def test_unknown_outcome_is_resent_with_same_message_id(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        receiver.hang_up_after_data.add("anna@example.com")
        await provide(rt, receiver.port)
        await accept(rt, "anna@example.com")
        await in_state(rt, "done")
    assert len({mail.message_id for mail in receiver.to("anna@example.com")}) == 1
    assert len(receiver.mails) == 2
    assert await acks(quick) == ["Acked", "Deferred"]


async def test_unknown_outcome_is_held_if_brand_wants_that(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        receiver.hang_up_after_data.add("anna@example.com")
        await provide(rt, receiver.port, unknown_policy="hold")
        await accept(rt, "anna@example.com")
        await in_state(rt, "unknown")
    assert len(receiver.mails) == 1
    assert await acks(quick) == []


async def test_slow_server_exceeds_deadline(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick.model_copy(update={"smtp_timeout": 0.3})) as rt:
        receiver.slow["anna@example.com"] = 2.0
        await provide(rt, receiver.port)
        await accept(rt, "anna@example.com")
        await in_state(rt, "dead")
    assert await acks(quick) == ["Deferred", "Deferred", "Deferred", "Failed"]


@pytest.mark.parametrize("fault", ["missing", "another content", "other bytes", "no content"])
async def test_changed_content_is_a_failure_and_a_dead_letter(quick: Settings, fault: str) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        [good] = await accept(rt, "good@example.com")
        assert good.content is not None
        changed: dict[str, ContentPointer | None] = {
            "missing": _changed(good.content, offset=good.content.offset + 1000, content_id="gone"),
            "another content": _changed(good.content, content_id="other"),
            "other bytes": _changed(good.content, sha256="0" * 64),
            "no content": None,
        }
        bad = request("bad@example.com", content=changed[fault])
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, bad.email_id, bad)])
        await in_state(rt, "done", "dead")
        assert await rows(rt, "select stream::text from jobs.jobs where state = 'dead'") == [(bad.email_id,)]
    assert [mail.recipient for mail in receiver.mails] == ["good@example.com"]
    [failed] = [ack for ack in await on(quick, PROVIDER_ACKS) if isinstance(ack, Failed)]
    assert failed.email_id == bad.email_id
    letters = await on(quick, DEAD_LETTERS)
    assert [letter.key for letter in letters] == ([bad.email_id.encode()] if bad.content else [])


def _changed(pointer: ContentPointer, **values: object) -> ContentPointer:
    fields = {name: getattr(pointer, name) for name in pointer.__struct_fields__}
    return ContentPointer(**(fields | values))


async def test_content_in_several_chunks_arrives_complete(quick: Settings) -> None:
    noise = "".join(f"{number:x}{number * 7919 % 99991:x} " for number in range(400_000))
    async with smtp_receiver(data_size_limit=60_000_000) as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        [sent] = await accept(rt, "anna@example.com", content=MessageContent(text=noise))
        assert sent.content is not None
        assert sent.content.chunks > 1
        await accept(rt, "bert@example.com")
        await until(lambda: len(receiver.mails) == 2)
        await in_state(rt, "done")
    [mail] = receiver.to("anna@example.com")
    assert mail.message.get_content().split() == noise.split()


async def test_undecodable_record_becomes_dead_letter_and_blocks_nothing(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        for value in (b"not json", b'{"type":"send-request/1"}', b""):
            await rt.log.append_raw("send-requests", b"k", value)
        bad = request("x@example.com", email_id="no-uuid")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, bad.email_id, bad)])
        await accept(rt, *[f"user{number}@example.com" for number in range(6)])
        await until(lambda: len(receiver.mails) == 6)
    letters = await on(quick, DEAD_LETTERS)
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert len(letters) == 4


async def test_database_rebuilt_from_log_sends_nothing_again(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # One record per poll, so that without the rule under test requests would be sent long before their acks are read.
    monkeypatch.setattr("pipeline.dispatch.intake.MAX_RECORDS_PER_POLL", 1)
    async with smtp_receiver() as receiver:
        async with dispatching(quick) as rt:
            receiver.rcpt["nobody@example.com"] = ["550 no"]
            await provide(rt, receiver.port)
            await accept(rt, *[f"user{number}@example.com" for number in range(40)], "nobody@example.com")
            await in_state(rt, "done")
            busy = receiver.asked
        slow = quick.model_copy(update={"dispatch_schedule": (600.0,)})
        async with dispatching(slow) as rt:
            receiver.rcpt["later@example.com"] = ["450 later"]
            await accept(rt, "later@example.com")
            await until(lambda: receiver.asked > busy)
            await until(lambda: _count(rt, "select 1 from jobs.jobs where attempts = 1 and state = 'pending'", 1))
        asked = receiver.asked
        await _forget_everything(slow)
        async with dispatching(slow) as rt:
            await until(lambda: _count(rt, "select 1 from jobs.jobs where state = 'done'", 41))
            await until(lambda: _count(rt, "select 1 from jobs.jobs where state = 'pending'", 1))
            [(due, attempts)] = await rows(
                rt, "select extract(epoch from due_at)::float8, attempts from jobs.jobs where state = 'pending'"
            )
            assert attempts == 1, "the schedule goes on where it was"
            assert due > time.time() + 300
            await accept(rt, "new@example.com")
            await until(lambda: bool(receiver.to("new@example.com")))
        assert receiver.asked == asked + 1


async def _count(rt: Runtime, query: str, count: int) -> bool:
    return len(await rows(rt, query)) == count


async def _forget_everything(settings: Settings) -> None:
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
        await connection.execute("truncate jobs.jobs, jobs.next_offsets, jobs.lanes")


async def test_two_dispatchers_send_each_email_once(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as one, dispatching(quick) as two:
        await provide(one, receiver.port)
        for part in range(5):
            await accept(two, *[f"user{part}-{number}@example.com" for number in range(30)])
        await until(lambda: len(receiver.mails) >= 150)
        await in_state(one, "done")
    assert len({mail.recipient for mail in receiver.mails}) == 150
    assert len(receiver.mails) == 150

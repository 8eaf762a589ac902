"""Sending to provider APIs: batches, rate limits, safe repeats, redirects and size limits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from mailgun.client import Client

from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.by_kind import TransportRouter
from pipeline.dispatch.transports.http_client import MAX_RESPONSE_BYTES
from pipeline.errors import LeaseLost
from pipeline.jobs.job import EndpointHealth
from pipeline.operations.checks.sending import check
from pipeline.settings import Settings
from tests.support.api_servers import KEY, Api, api_server
from tests.support.letters import FULL, NOW, mail, without_mime
from tests.support.seeing import until
from topics.contents import MessageContent


@contextlib.asynccontextmanager
async def open_router(kind: str, timeout: float = 3.0) -> AsyncIterator[tuple[Api, TransportRouter]]:  # noqa: ASYNC109  the transport's
    async with api_server(kind) as api:
        router = TransportRouter(timeout=timeout, local_hostname="mailfold.test", clock=lambda: NOW)
        try:
            yield api, router
        finally:
            await router.close()


async def send_all(api: Api, router: TransportRouter, mails: list[OutgoingEmail]) -> list[SendResult]:
    return list(await asyncio.gather(*[router.send(api.provider, email) for email in mails]))


def count_arrivals(api: Api, email: OutgoingEmail) -> int:
    return sum(seen.email_id == email.message.request.email_id for seen in api.mails)


@pytest.mark.parametrize("kind", ["postmark", "resend"])
async def test_concurrent_emails_share_few_requests(kind: str) -> None:
    async with open_router(kind) as (api, router):
        mails = [without_mime(mail(f"user{number}@example.com")) for number in range(250)]
        answers = await send_all(api, router, mails)
        assert {answer.outcome for answer in answers} == {SendOutcome.TAKEN}
        assert [count_arrivals(api, email) for email in mails] == [1] * 250
        assert api.requests <= 5


async def test_single_email_is_sent_at_once_with_its_own_key() -> None:
    async with open_router("resend") as (api, router):
        email = without_mime(mail())
        await router.send(api.provider, email)
        await router.send(api.provider, email)
        [seen] = api.mails
        assert seen.key == email.message.request.email_id, "sent once, however often it is tried"


@pytest.mark.parametrize(("kind", "bad"), [("postmark", "inactive@example.com"), ("resend", "invalid@example.com")])
async def test_bad_address_fails_only_its_email_of_a_batch(kind: str, bad: str) -> None:
    async with open_router(kind) as (api, router):
        mails = [without_mime(mail(bad if number == 3 else f"user{number}@example.com")) for number in range(10)]
        answers = await send_all(api, router, mails)
        meanings = [answer.outcome for answer in answers]
        assert meanings.pop(3) in (SendOutcome.DROPPED, SendOutcome.REFUSED)
        assert meanings == [SendOutcome.TAKEN] * 9
        assert len({answer.provider_message_id for answer in answers}) == 10


@pytest.mark.parametrize("kind", ["postmark", "resend"])
async def test_batch_refused_for_one_message_is_sent_one_by_one(kind: str) -> None:
    async with open_router(kind) as (api, router):
        empty = without_mime(mail("empty@example.com", MessageContent()))
        mails = [without_mime(mail()), empty, without_mime(mail())]
        answers = await send_all(api, router, mails)
        assert [answer.outcome for answer in answers] == [SendOutcome.TAKEN, SendOutcome.REFUSED, SendOutcome.TAKEN]
        api.faults.append((413, "<html>too large</html>"))
        assert {answer.outcome for answer in await send_all(api, router, [mails[0], mails[2]])} == {SendOutcome.TAKEN}


async def test_email_with_attachment_is_sent_alone_where_batches_take_none() -> None:
    async with open_router("resend") as (api, router):
        mails = [without_mime(mail(content=FULL)), without_mime(mail()), without_mime(mail())]
        assert {answer.outcome for answer in await send_all(api, router, mails)} == {SendOutcome.TAKEN}
        assert [count_arrivals(api, email) for email in mails] == [1, 1, 1]


async def test_email_with_lost_lease_is_dropped_from_batch() -> None:
    def lost() -> None:
        raise LeaseLost

    async with open_router("postmark") as (api, router):
        mails = [without_mime(mail(commit=lost) if number == 1 else mail()) for number in range(4)]
        tasks = [asyncio.create_task(router.send(api.provider, email)) for email in mails]
        await asyncio.wait(tasks)
        assert [type(task.exception()) for task in tasks] == [type(None), LeaseLost, type(None), type(None)]
        assert [count_arrivals(api, email) for email in mails] == [1, 0, 1, 1]


async def test_email_cancelled_before_its_batch_is_not_sent() -> None:
    async with open_router("postmark") as (api, router):
        mails = [without_mime(mail()) for _ in range(3)]
        tasks = [asyncio.create_task(router.send(api.provider, email)) for email in mails]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert [count_arrivals(api, email) for email in mails] == [1, 0, 1]


async def test_email_cancelled_while_its_batch_waits_is_not_sent() -> None:
    async with open_router("postmark") as (api, router):
        api.faults.append((429, {"ErrorCode": 429, "Message": "slowly"}, {"Retry-After": "1"}))
        mails = [without_mime(mail()) for _ in range(3)]
        tasks = [asyncio.create_task(router.send(api.provider, mails[0]))]
        await until(lambda: bool(router._clients))
        [client] = router._clients.values()
        await until(lambda: client._not_before > 0)
        tasks += [asyncio.create_task(router.send(api.provider, email)) for email in mails[1:]]
        [batches] = router._batchers.values()
        # Taken by the second sender, which waits as the first does.
        await until(lambda: len(batches._senders) == 2)
        await until(lambda: not batches._pending)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert [count_arrivals(api, email) for email in mails] == [1, 0, 1]


async def test_lost_reply_to_batch_is_repeated_with_idempotent_api() -> None:
    async with open_router("resend") as (api, router):
        api.faults.append("reset after")
        mails = [without_mime(mail()) for _ in range(5)]
        assert {answer.outcome for answer in await send_all(api, router, mails)} == {SendOutcome.TAKEN}
        assert [count_arrivals(api, email) for email in mails] == [1] * 5


async def test_lost_reply_to_batch_is_unknown_without_idempotency() -> None:
    async with open_router("postmark") as (api, router):
        api.faults.append("reset after")
        mails = [without_mime(mail()) for _ in range(5)]
        assert {answer.outcome for answer in await send_all(api, router, mails)} == {SendOutcome.UNKNOWN}
        assert [count_arrivals(api, email) for email in mails] == [1] * 5


@pytest.mark.parametrize("kind", ["ses", "sendgrid"])
async def test_429_delays_requests_and_counts_no_attempt(kind: str) -> None:
    async with open_router(kind) as (api, router):
        api.faults += [(429, {}, {"Retry-After": "1"} if kind == "sendgrid" else {})]
        answer = await router.send(api.provider, mail())
        assert answer.outcome is SendOutcome.TAKEN
        assert api.requests == 2


async def test_exhausted_quota_is_retried_later() -> None:
    async with open_router("resend") as (api, router):
        api.faults.append((429, {"name": "daily_quota_exceeded", "message": "m"}, {"Retry-After": "3600"}))
        answer = await router.send(api.provider, without_mime(mail()))
        assert (answer.outcome, answer.retry_after_s, answer.health) == (
            SendOutcome.LATER,
            3600.0,
            EndpointHealth.FAILING,
        )
        assert api.requests == 1


async def test_redirect_is_not_followed() -> None:
    async with open_router("sendgrid") as (api, router), open_router("sendgrid") as (elsewhere, _):
        api.faults.append((307, "", {"Location": f"http://127.0.0.1:{elsewhere.port}/v3/mail/send"}))
        answer = await router.send(api.provider, without_mime(mail()))
        assert answer.outcome is SendOutcome.MISCONFIGURED
        assert elsewhere.requests == 0, "the key went nowhere else"


async def test_endless_response_is_read_up_to_its_limit() -> None:
    async with open_router("sendgrid") as (api, router):
        api.faults.append((400, "x" * (3 * MAX_RESPONSE_BYTES)))
        answer = await router.send(api.provider, without_mime(mail()))
        assert answer.outcome is SendOutcome.REFUSED
        assert len(answer.text) <= 500


@pytest.mark.parametrize("kind", ["ses", "sendgrid", "mailgun", "postmark", "resend"])
async def test_credential_check_finds_invalid_key(kind: str) -> None:
    async with api_server(kind) as api:
        [works] = await check(api.provider, Settings())
        api.faults.append((401, {"message": "who are you?", "ErrorCode": 10, "Message": "no"}))
        [refused] = await check(api.provider, Settings())
        assert (works.verdict, refused.verdict) == ("right", "wrong")
        assert api.mails == []


async def test_mailgun_client_makes_same_request() -> None:
    async with open_router("mailgun") as (api, router):
        email = mail(content=FULL)

        def send_with_their_client() -> int:
            fields = {
                "to": "anna@example.com",
                "o:tracking": "no",
                "v:mailfold_email_id": email.message.request.email_id,
                "v:mailfold_email_tag": email.message.echo_tag,
            }
            file = {"message": ("message.eml", email.mime_bytes, "message/rfc822")}
            with Client(auth=("api", KEY), api_url=f"http://127.0.0.1:{api.port}/") as client:
                response = client.mimemessage.create(data=fields, files=file, domain="mail.example")
                return int(response.status_code)

        assert (await router.send(api.provider, email)).outcome is SendOutcome.TAKEN
        assert await asyncio.to_thread(send_with_their_client) == 200
        assert api.mails[0] == api.mails[1]
        assert api.forms[0] == api.forms[1]

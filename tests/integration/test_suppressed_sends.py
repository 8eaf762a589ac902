"""Emails to suppressed addresses are dropped just before sending, and every interface reports the reason."""

from typing import Any

from pipeline.dispatch import main as dispatch
from pipeline.operations import trace
from pipeline.settings import Settings
from tests.integration.test_suppressions import email_log, soft_bounce
from tests.support.changes import Log
from tests.support.dispatching import accept, provide
from tests.support.gateway import Gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.suppressed import ask, publish
from tests.support.working import beside
from topics.acks import Acked, Dropped
from topics.events import EventKind
from topics.registry import PROVIDER_ACKS

REASONS = {
    "gone@example.com": "suppressed: hard bounce",
    "angry@example.com": "suppressed: complaint",
    "out@example.com": "suppressed: unsubscribe",
    "full@example.com": "suppressed: soft bounce",
    "listed@example.com": "suppressed: listed, manual",
}


async def test_email_suppressed_after_acceptance_is_dropped_with_its_reason(settings: Settings) -> None:
    async with smtp_receiver() as receiver, gateway_and_projector(settings) as served:
        await provide(served.rt, receiver.port)
        sent = {request.recipient: request for request in await accept(served.rt, *REASONS, "fine@example.com")}
        await _suppress(served)
        await _dispatch(served, len(sent))
        acks = {ack.email_id: ack for ack in await on(settings, PROVIDER_ACKS)}
        dropped = {address: acks[request.email_id] for address, request in sent.items() if address in REASONS}
        assert {address: ack.reason for address, ack in dropped.items() if isinstance(ack, Dropped)} == REASONS
        assert isinstance(acks[sent["fine@example.com"].email_id], Acked), "only another brand's email bounced"
        assert [mail.recipient for mail in receiver.mails] == ["fine@example.com"]

        await publish(served, *(Log().fold(sent[address], ack) for address, ack in dropped.items()))
        query = "select count(*) from jobs.jobs where queue = 'emit' and name = 'dropped' and state = 'pending'"
        assert await rows(served.rt, query) == [(len(REASONS),)], "a conversion for Fast Track is due"
        for address, reason in REASONS.items():
            [email_trace] = (await trace.find(served.rt, sent[address].email_id)).traces
            assert email_trace.status == "dropped"
            assert [reason in line.details for line in email_trace.lines] == [False, True]
            assert [conversion["word"] for conversion in email_trace.conversions] == ["dropped"]
        [email] = await _listed(served, "listed@example.com")
        assert (email["State"], email["BounceDetails"]) == ("bounced", REASONS["listed@example.com"])


async def _listed(served: Gateway, address: str) -> list[Any]:
    """Wait until the email_v1 API lists emails to this address, and return them."""
    emails: list[Any] = []

    async def is_listed() -> bool:
        emails[:] = (await ask(served, "GET", "/v1/Email/", params={"Email": address})).json()["Emails"]
        return bool(emails)

    await until(is_listed)
    return emails


async def _suppress(served: Gateway) -> None:
    """Suppress each address for its reason of ``REASONS``."""
    now = served.rt.clock()
    await publish(
        served,
        email_log(1, now, EventKind.BOUNCED, "gone@example.com"),
        email_log(2, now, EventKind.COMPLAINED, "angry@example.com"),
        email_log(3, now, EventKind.UNSUBSCRIBED, "out@example.com"),
        email_log(4, now, EventKind.BOUNCED, "fine@example.com", brand="8"),
        *(soft_bounce(number, now - number, "full@example.com") for number in range(11, 16)),
    )
    await ask(served, "POST", "/suppressions", json={"address": "listed@example.com", "brand": "*"})


async def _dispatch(served: Gateway, emails: int) -> None:
    """Run the dispatcher until so many of its jobs are done."""

    async def all_done() -> bool:
        query = "select count(*) from jobs.jobs where queue = 'dispatch' and state = 'done'"
        return await rows(served.rt, query) == [(emails,)]

    async with beside(served.rt, dispatch.run):
        await until(all_done)

"""What becomes of an email to an address that gets nothing: dropped at the last moment, and everybody is told why."""

from typing import Any

from pipeline.dispatch import main as dispatch
from pipeline.operations import trace
from pipeline.settings import Settings
from tests.integration.test_suppressions import soft, told
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


async def test_an_email_whose_address_was_suppressed_since_it_was_accepted_is_dropped_and_everybody_is_told_why(
    settings: Settings,
) -> None:
    async with smtp_receiver() as receiver, gateway_and_projector(settings) as served:
        await provide(served.rt, receiver.port)
        sent = {one.recipient: one for one in await accept(served.rt, *REASONS, "fine@example.com")}
        await _suppress(served)
        await _dispatch(served, len(sent))
        acks = {ack.email_id: ack for ack in await on(settings, PROVIDER_ACKS)}
        dropped = {name: acks[one.email_id] for name, one in sent.items() if name in REASONS}
        assert {name: ack.reason for name, ack in dropped.items() if isinstance(ack, Dropped)} == REASONS
        assert isinstance(acks[sent["fine@example.com"].email_id], Acked), "another brand's bounce is another brand's"
        assert [mail.recipient for mail in receiver.mails] == ["fine@example.com"]

        await publish(served, *(Log().fold(sent[name], ack) for name, ack in dropped.items()))
        query = "select count(*) from jobs.jobs where queue = 'emit' and name = 'dropped' and state = 'pending'"
        assert await rows(served.rt, query) == [(len(REASONS),)], "Fast Track is owed the word"
        for name, words in REASONS.items():
            [told_of] = (await trace.find(served.rt, sent[name].email_id)).traces
            assert told_of.status == "dropped"
            assert [words in line.details for line in told_of.lines] == [False, True]
            assert [one["word"] for one in told_of.conversions] == ["dropped"]
        [email] = await _listed(served, "listed@example.com")
        assert (email["State"], email["BounceDetails"]) == ("bounced", REASONS["listed@example.com"])


async def _listed(served: Gateway, address: str) -> list[Any]:
    """Once what time it is has come through every partition."""
    found: list[Any] = []

    async def shown() -> bool:
        found[:] = (await ask(served, "GET", "/v1/Email/", params={"Email": address})).json()["Emails"]
        return bool(found)

    await until(shown)
    return found


async def _suppress(served: Gateway) -> None:
    """Each for its reason, after their emails were accepted."""
    now = served.rt.clock()
    await publish(
        served,
        told(1, now, EventKind.BOUNCED, "gone@example.com"),
        told(2, now, EventKind.COMPLAINED, "angry@example.com"),
        told(3, now, EventKind.UNSUBSCRIBED, "out@example.com"),
        told(4, now, EventKind.BOUNCED, "fine@example.com", brand="8"),
        *(soft(number, now - number, "full@example.com") for number in range(11, 16)),
    )
    await ask(served, "POST", "/suppressions", json={"address": "listed@example.com", "brand": "*"})


async def _dispatch(served: Gateway, emails: int) -> None:
    """Until so many are done."""

    async def all_done() -> bool:
        query = "select count(*) from jobs.jobs where queue = 'dispatch' and state = 'done'"
        return await rows(served.rt, query) == [(emails,)]

    async with beside(served.rt, dispatch.run):
        await until(all_done)

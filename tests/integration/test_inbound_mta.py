"""Reports by real mail servers about emails that we sent through them arrive by SMTP and determine their states."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline import admin
from pipeline.devstack.supervisor import Stack
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support import mtas
from tests.support.dispatching import accept
from tests.support.inbound import Inbound, inbound
from tests.support.mtas import Neighbours
from tests.support.seeing import on, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.readings import EmailStatus, email_status
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES
from topics.requests import SendRequest

DOMAIN = "mailfold.localhost"
RELAYS = {"postfix": mtas.postfix, "exim4": mtas.exim}
ANNA, GONE, FULL = "anna@receiver.test", "gone@receiver.test", "full@receiver.test"
HERE, MOVED, UNREACHABLE = "anna@here.test", "moved@alias.test", "anna@closed.test"
EXPECTED = {
    ANNA: (EmailStatus.SENT, EventKind.SENT),
    GONE: (EmailStatus.BOUNCED, EventKind.BOUNCED),
    FULL: (EmailStatus.DEFERRED, EventKind.DEFERRED),
    HERE: (EmailStatus.DELIVERED, EventKind.DELIVERED),
    MOVED: (EmailStatus.BOUNCED, EventKind.BOUNCED),
    UNREACHABLE: (EmailStatus.DEFERRED, EventKind.DEFERRED),
}
"""Each recipient's final status, and the kind of report that causes it."""


@contextlib.asynccontextmanager
async def relayed(settings: Settings, folder: Path, relay: str) -> AsyncIterator[tuple[Inbound, Receiver]]:
    """Run a worker and a dispatcher whose provider is a real mail server, which sends its reports to our listener."""
    async with inbound(settings) as world, smtp_receiver() as receiver:
        receiver.rcpt[GONE] = ["550 5.1.1 <gone@receiver.test>: nobody of that name here"]
        receiver.rcpt[FULL] = ["452 4.2.2 <full@receiver.test>: mailbox full"]
        with mtas.closed_port() as closed:
            neighbours = Neighbours(inbound=world.port, receiver=receiver.port, closed=closed)
            with RELAYS[relay](folder / relay, DOMAIN, neighbours) as port:
                pool = world.gateway.rt.pool
                await admin.add_provider(pool, admin.Provider(relay, "127.0.0.1", port, tls="off"), RING)
                await admin.add_brand(pool, admin.Brand("acme", "*", relay))
                async with Stack(settings, roles=["worker", "dispatch"]):
                    yield world, receiver


@pytest.mark.parametrize("relay", RELAYS)
async def test_reports_of_real_servers_determine_each_emails_state(
    settings: Settings, tmp_path: Path, relay: str
) -> None:
    async with relayed(settings, tmp_path, relay) as (world, receiver):
        sent = {request.recipient: request for request in await accept(world.gateway.rt, *EXPECTED)}
        await until(lambda: _has_expected_states(settings, sent), 60)
        events: list[DeliveryEvent] = await on(settings, DELIVERY_EVENTS)

    def event_of(recipient: str, kind: EventKind) -> DeliveryEvent:
        return next(event for event in events if (event.email_id, event.kind) == (sent[recipient].email_id, kind))

    # relayed: passed on to a server that reports no success; delivered: into a mailbox.
    assert event_of(ANNA, EventKind.SENT).bounce_type == "relayed"
    assert event_of(HERE, EventKind.DELIVERED).bounce_type == "delivered"
    gone = event_of(GONE, EventKind.BOUNCED)
    assert (gone.code, gone.enhanced, gone.bounce_class) == (550, "5.1.1", BounceClass.HARD)
    assert "nobody of that name here" in gone.text
    # Our recipient's address accepted it; the address that it forwards to does not exist.
    assert event_of(MOVED, EventKind.BOUNCED).bounce_class is BounceClass.SOFT
    assert event_of(FULL, EventKind.DEFERRED).enhanced == "4.2.2"
    assert event_of(UNREACHABLE, EventKind.DEFERRED).bounce_type == "delayed"
    assert not any("@" in event.text + bytes(event.native).decode() for event in events)
    assert [mail.recipient for mail in receiver.mails] == [ANNA]


async def _has_expected_states(settings: Settings, sent: dict[str, SendRequest]) -> bool:
    """Return whether each email has its expected status and report."""
    by_email = {state.email_id: state for state in await on(settings, EMAIL_STATES) if state is not None}
    states = {recipient: by_email.get(request.email_id) for recipient, request in sent.items()}
    reported = {(event.email_id, event.kind) for event in await on(settings, DELIVERY_EVENTS)}
    return all(
        state is not None
        and email_status(state) is EXPECTED[recipient][0]
        and (state.email_id, EXPECTED[recipient][1]) in reported
        for recipient, state in states.items()
    )

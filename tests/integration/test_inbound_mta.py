"""Real mail servers write the reports: what we sent through them comes back over SMTP and becomes states."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline import admin
from pipeline.devstack.supervisor import Stack
from pipeline.settings import Settings
from tests.conftest import SECRET
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
HERE, MOVED, AWAY = "anna@here.test", "moved@alias.test", "anna@closed.test"
BECOMES = {
    ANNA: (EmailStatus.SENT, EventKind.SENT),
    GONE: (EmailStatus.BOUNCED, EventKind.BOUNCED),
    FULL: (EmailStatus.DEFERRED, EventKind.DEFERRED),
    HERE: (EmailStatus.DELIVERED, EventKind.DELIVERED),
    MOVED: (EmailStatus.BOUNCED, EventKind.BOUNCED),
    AWAY: (EmailStatus.DEFERRED, EventKind.DEFERRED),
}
"""To whom we write: what becomes of it, and which report says so."""


@contextlib.asynccontextmanager
async def relayed(settings: Settings, folder: Path, relay: str) -> AsyncIterator[tuple[Inbound, Receiver]]:
    """A dispatcher whose provider is a real server; what that says comes back to our listener."""
    async with inbound(settings) as world, smtp_receiver() as receiver:
        receiver.rcpt[GONE] = ["550 5.1.1 <gone@receiver.test>: nobody of that name here"]
        receiver.rcpt[FULL] = ["452 4.2.2 <full@receiver.test>: mailbox full"]
        with mtas.closed_port() as closed:
            to = Neighbours(inbound=world.port, receiver=receiver.port, closed=closed)
            with RELAYS[relay](folder / relay, DOMAIN, to) as port:
                pool = world.gateway.rt.pool
                await admin.add_provider(pool, admin.Provider(relay, "127.0.0.1", port, tls="off"), SECRET)
                await admin.add_brand(pool, admin.Brand("acme", "*", relay))
                async with Stack(settings, roles=["worker", "dispatch"]):
                    yield world, receiver


@pytest.mark.parametrize("relay", RELAYS)
async def test_what_a_real_server_reports_becomes_the_state_of_each_email(
    settings: Settings, tmp_path: Path, relay: str
) -> None:
    async with relayed(settings, tmp_path, relay) as (world, receiver):
        sent = {one.recipient: one for one in await accept(world.gateway.rt, *BECOMES)}
        await until(lambda: _became(settings, sent), 60)
        told: list[DeliveryEvent] = await on(settings, DELIVERY_EVENTS)

    def only(recipient: str, kind: EventKind) -> DeliveryEvent:
        return next(event for event in told if (event.email_id, event.kind) == (sent[recipient].email_id, kind))

    # relayed: handed to a server that reports no success; delivered: into a mailbox.
    assert only(ANNA, EventKind.SENT).bounce_type == "relayed"
    assert only(HERE, EventKind.DELIVERED).bounce_type == "delivered"
    gone = only(GONE, EventKind.BOUNCED)
    assert (gone.code, gone.enhanced, gone.bounce_class) == (550, "5.1.1", BounceClass.HARD)
    assert "nobody of that name here" in gone.text
    # The address that we wrote to took it; the one that its owner forwards to is gone.
    assert only(MOVED, EventKind.BOUNCED).bounce_class is BounceClass.SOFT
    assert only(FULL, EventKind.DEFERRED).enhanced == "4.2.2"
    assert only(AWAY, EventKind.DEFERRED).bounce_type == "delayed"
    assert not any("@" in event.text + bytes(event.native).decode() for event in told)
    assert [mail.recipient for mail in receiver.mails] == [ANNA]


async def _became(settings: Settings, sent: dict[str, SendRequest]) -> bool:
    """Whether each email has got its status, and its reports."""
    found = {state.email_id: state for state in await on(settings, EMAIL_STATES) if state is not None}
    states = {name: found.get(request.email_id) for name, request in sent.items()}
    told = {(event.email_id, event.kind) for event in await on(settings, DELIVERY_EVENTS)}
    return all(
        state is not None and email_status(state) is BECOMES[name][0] and (state.email_id, BECOMES[name][1]) in told
        for name, state in states.items()
    )

"""Mail of a brand: its DKIM signature, its sender, and sending through a provider's API."""

import json
import re

import dkim as dkimpy
import pytest

from pipeline import admin
from pipeline.admin import Brand
from pipeline.content import dkim
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.routes import set_dkim
from pipeline.runtime.bootstrap import Runtime
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.api_servers import Api, api_server
from tests.support.dispatching import accept, dispatching, provide
from tests.support.echoes import echoed
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.acks import Acked, Dropped
from topics.contents import MessageContent
from topics.registry import PROVIDER_ACKS


async def done(rt: Runtime, count: int) -> bool:
    return len(await rows(rt, "select 1 from jobs.jobs where state = 'done'")) == count


@pytest.mark.parametrize("ed25519", [False, True])
async def test_plain_smtp_message_is_signed_by_its_brand(settings: Settings, ed25519: bool) -> None:
    made = DkimKey("shop.example", "mf1", dkim.new_key(ed25519=ed25519))
    value = "".join(re.findall(r'"([^"]*)"', dkim.dns_record(made))).encode()
    async with smtp_receiver(data_size_limit=10_000_000) as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        await set_dkim(rt.pool, "acme", "7", made, RING)
        await accept(rt, "anna@example.com")
        await accept(rt, "bert@example.com", content=MessageContent(text="long, and   spaced \n" * 20_000))
        await until(lambda: done(rt, 2))
        for mail in receiver.mails:
            assert dkimpy.verify(mail.raw, dnsfunc=lambda *_args, **_more: value)
        [(sealed,)] = await rows(rt, "select dkim_key_sealed from admin.brands")
        assert b"PRIVATE" not in bytes(sealed)


async def test_message_to_signing_service_is_not_signed(settings: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port, kind="mailgun")
        await set_dkim(rt.pool, "acme", "7", DkimKey("shop.example", "mf1", dkim.new_key(ed25519=True)), RING)
        [sent] = await accept(rt, "anna@example.com")
        await until(lambda: bool(receiver.mails))
    message = receiver.mails[0].message
    assert "DKIM-Signature" not in message
    assert json.loads(message["X-Mailgun-Variables"]) == echoed(sent.email_id)


async def test_request_without_sender_uses_sender_of_brand(settings: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        await admin.add_brand(
            rt.pool, Brand("acme", "7", "local-7", sender_address="news@shop.example", sender_name="Shöp")
        )
        await admin.add_brand(rt.pool, Brand("acme", "8", "local-7"))
        await accept(rt, "anna@example.com", sender=None)
        await accept(rt, "bert@example.com", sender=None, brand="8")
        await accept(rt, "carl@example.com")
        await until(lambda: len(receiver.mails) == 3)
    senders = {mail.recipient: str(mail.message["From"]) for mail in receiver.mails}
    assert senders == {
        "anna@example.com": "Shöp <news@shop.example>",
        "bert@example.com": "no-reply@mailfold.localhost",
        "carl@example.com": "Shop <news@shop.example>",
    }


async def through(rt: Runtime, api: Api) -> None:
    await provide(rt, 1)
    await admin.add_provider(rt.pool, api.provider, RING)
    await admin.add_brand(rt.pool, Brand("acme", "7", api.provider.provider))


@pytest.mark.parametrize("kind", ["ses", "sendgrid", "mailgun", "postmark", "resend"])
async def test_mail_is_sent_through_provider_api(settings: Settings, kind: str) -> None:
    async with api_server(kind) as api, dispatching(settings) as rt:
        await through(rt, api)
        sent = await accept(rt, *[f"user{number}@example.com" for number in range(30)])
        await until(lambda: done(rt, 30))
    assert sorted(seen.email_id for seen in api.mails) == sorted(request.email_id for request in sent)
    acks = await on(settings, PROVIDER_ACKS)
    assert {type(ack) for ack in acks} == {Acked}
    assert len({ack.provider_message_id for ack in acks} - {""}) == 30
    assert {(ack.provider, ack.attempt) for ack in acks} == {(f"{kind}-api", 1)}


async def test_address_suppressed_by_provider_is_dropped(settings: Settings) -> None:
    async with api_server("postmark") as api, dispatching(settings) as rt:
        await through(rt, api)
        await accept(rt, "inactive@example.com")
        await until(lambda: done(rt, 1))
    [ack] = await on(settings, PROVIDER_ACKS)
    assert isinstance(ack, Dropped)
    assert ack.reason == "suppressed by the provider"
    assert "inactive@example.com" not in ack.text

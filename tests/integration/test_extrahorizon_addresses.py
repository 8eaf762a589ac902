"""Test internationalized addresses: Extra Horizon accepts them, dispatch sends to them if the server has SMTPUTF8."""

import contextlib
from collections.abc import AsyncIterator

from pipeline import admin
from pipeline.admin import Brand, Provider
from pipeline.content.mime import with_ascii_domain
from pipeline.dispatch import main as dispatch
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.settings import Settings
from tests.integration.test_extrahorizon import PLAIN, send
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import on, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from tests.support.working import beside
from topics.acks import Acked, Failed
from topics.registry import PROVIDER_ACKS

NINOMIYA = "二ノ宮@黒川.日本"
ON_THE_WIRE = with_ascii_domain(NINOMIYA)


@contextlib.asynccontextmanager
async def sending(settings: Settings, *, smtputf8: bool) -> AsyncIterator[tuple[Gateway, Receiver]]:
    """Serve a gateway and a dispatcher whose brand sends to an SMTP server with or without SMTPUTF8."""
    async with smtp_receiver(enable_SMTPUTF8=smtputf8) as receiver, gateway(settings) as served:
        await admin.add_provider(
            served.rt.pool, Provider("local", "127.0.0.1", receiver.port, tls="off"), SecretRing.of("s" * 32)
        )
        await admin.add_brand(served.rt.pool, Brand("acme", "*", "local"))
        async with beside(served.rt, dispatch.run):
            yield served, receiver


async def test_internationalized_address_is_used_unchanged(settings: Settings) -> None:
    mail = PLAIN | {"recipients": {"to": [f"二ノ宮 <{NINOMIYA}>"], "cc": ["anna@example.com"]}, "reply_to": [NINOMIYA]}
    async with sending(settings, smtputf8=True) as (served, receiver):
        sent = await send(served, mail)
        assert (sent["recipients"]["to"], sent["reply_to"]) == ([f"二ノ宮 <{NINOMIYA}>"], [NINOMIYA])
        await until(lambda: receiver.to(ON_THE_WIRE) and receiver.to("anna@example.com"))
    for address in (ON_THE_WIRE, "anna@example.com"):
        (received,) = receiver.to(address)
        assert "SMTPUTF8" in received.options
        assert f"<{ON_THE_WIRE}>" in received.raw.decode()


async def test_email_fails_for_good_without_smtputf8_before_it_is_sent(
    settings: Settings,
) -> None:
    async with sending(settings, smtputf8=False) as (served, receiver):
        await send(served, PLAIN | {"recipients": {"to": ["jürgen@example.com"]}})
        await send(served, PLAIN)

        async def are_done() -> bool:
            return len(await on(settings, PROVIDER_ACKS)) == 2

        await until(are_done)
    failed, acked = sorted(await on(settings, PROVIDER_ACKS), key=lambda ack: isinstance(ack, Acked))
    assert isinstance(failed, Failed), "not a bounce, because no server refused the recipient"
    assert (failed.code, failed.enhanced, "SMTPUTF8" in failed.text) == (553, "5.6.7", True)
    assert isinstance(acked, Acked)
    assert [received.recipient for received in receiver.mails] == ["anna@example.com"]

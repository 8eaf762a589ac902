"""Post each documented payload of every provider to one gateway over real HTTP, signed as the provider signs."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline import admin
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.providers.registry import ADAPTERS
from pipeline.webhooks.splitting import events_of
from tests.support.gateway import Gateway, gateway
from tests.support.golden import Case, cases
from tests.support.seeing import records
from tests.support.sns import TOPIC, Amazon, amazon
from tests.support.webhooks import Signed, signed
from topics.registry import PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

# Bounced mail arrives by SMTP or `/inbound/mail`, and the sandbox sends SendGrid's webhooks.
KINDS = sorted(set(ADAPTERS) - {"mail", "sandbox"})
MAX_REQUESTS_IN_FLIGHT = 8


class AllProviders:
    """A gateway with a provider of each kind, whose name is its kind."""

    def __init__(self, served: Gateway, sns: Amazon, settings: Settings) -> None:
        self.served = served
        self.sns = sns
        self.settings = settings

    def request(self, kind: str, body: bytes) -> Signed:
        url = f"{self.settings.public_url}/webhooks/{kind}"
        return signed(kind, body, now_s=int(time.time()), url=url)

    def request_of_case(self, case: Case) -> Signed:
        if case.kind != "ses":
            return self.request(case.kind, case.body)
        plain = {"Content-Type": "text/plain; charset=UTF-8"}
        return Signed(self.sns.message(Message=case.payload.decode()), plain, TOPIC)

    async def post(self, kind: str, request: Signed) -> httpx.Response:
        return await self.served.http.post(f"/webhooks/{kind}", content=request.body, headers=request.headers)

    async def stored_webhooks(self) -> list[RawWebhook]:
        return [webhook for *_, webhook in await records(self.settings, PROVIDER_WEBHOOKS)]


@pytest.fixture
async def all_providers(settings: Settings) -> AsyncIterator[AllProviders]:
    async with amazon(settings.data_dir) as sns, gateway(settings, connector=sns.connector) as served:
        providers = AllProviders(served, sns, settings)
        for kind in KINDS:
            key = TOPIC if kind == "ses" else providers.request(kind, b"{}").key
            row = admin.Provider(kind, host="127.0.0.1", kind=kind, webhook_keys=(key,))
            await admin.add_provider(served.rt.pool, row, secret_ring(settings))
        yield providers


def event_kinds(webhook: RawWebhook) -> list[str]:
    """Return the kinds of the events that the worker makes of a stored webhook."""
    headers, adapter = dict(webhook.headers), ADAPTERS[webhook.kind]
    context = EventContext(provider=webhook.provider, received_at=webhook.received_at, headers=headers)
    events = [adapter.normalize(event, context) for event in events_of(adapter, webhook.body, headers)]
    if webhook.kind == "resend":
        assert [event.event_id for event in events] == [f"resend:{headers['svix-id']}"]
    return [event.kind.value for event in events]


async def test_every_documented_payload_is_stored_and_normalized(all_providers: AllProviders) -> None:
    documented = cases(*KINDS)
    posted = [(case.kind, all_providers.request_of_case(case)) for case in documented]
    slots = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)

    async def post(kind: str, request: Signed) -> int:
        async with slots:
            return (await all_providers.post(kind, request)).status_code

    answers = await asyncio.gather(*(post(kind, request) for kind, request in posted))
    assert Counter(zip((kind for kind, _ in posted), answers, strict=True)) == Counter(
        (kind, 200) for kind, _ in posted
    )
    webhooks = await all_providers.stored_webhooks()
    assert Counter((webhook.kind, webhook.body) for webhook in webhooks) == Counter(
        (kind, request.body) for kind, request in posted
    )
    header_names = {name for webhook in webhooks for name, _ in webhook.headers}
    assert "svix-id" in header_names
    assert "authorization" not in header_names
    kinds = Counter((webhook.kind, kind) for webhook in webhooks for kind in event_kinds(webhook))
    assert kinds == Counter((case.kind, event["kind"]) for case in documented for event in case.expected)

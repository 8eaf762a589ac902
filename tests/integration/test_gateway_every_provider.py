"""Every kind of provider at one gateway: each documented payload, signed as its provider signs, over real HTTP."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline import admin
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

# What mail brings in comes by another door, and the sandbox speaks SendGrid's language.
KINDS = sorted(set(ADAPTERS) - {"mail", "sandbox"})
AT_ONCE = 8


class Everybody:
    """A gateway with a provider of each kind, named as its kind."""

    def __init__(self, world: Gateway, sns: Amazon, settings: Settings) -> None:
        self.world = world
        self.sns = sns
        self.settings = settings

    def request(self, kind: str, body: bytes) -> Signed:
        url = f"{self.settings.public_url}/webhooks/{kind}"
        return signed(kind, body, now_s=int(time.time()), url=url)

    def of_case(self, case: Case) -> Signed:
        if case.kind != "ses":
            return self.request(case.kind, case.body)
        plain = {"Content-Type": "text/plain; charset=UTF-8"}
        return Signed(self.sns.message(Message=case.payload.decode()), plain, TOPIC)

    async def post(self, kind: str, request: Signed) -> httpx.Response:
        return await self.world.http.post(f"/webhooks/{kind}", content=request.body, headers=request.headers)

    async def on_the_log(self) -> list[RawWebhook]:
        return [webhook for *_, webhook in await records(self.settings, PROVIDER_WEBHOOKS)]


@pytest.fixture
async def everybody(settings: Settings) -> AsyncIterator[Everybody]:
    async with amazon(settings.data_dir) as sns, gateway(settings, connector=sns.connector) as world:
        it = Everybody(world, sns, settings)
        for kind in KINDS:
            key = TOPIC if kind == "ses" else it.request(kind, b"{}").key
            row = admin.Provider(kind, host="127.0.0.1", kind=kind, webhook_keys=(key,))
            await admin.add_provider(world.rt.pool, row, settings.secret.get_secret_value())
        yield it


def kinds_told(webhook: RawWebhook) -> list[str]:
    """What becomes of a record of the log: only what was kept of the request is there to tell it by."""
    headers, adapter = dict(webhook.headers), ADAPTERS[webhook.kind]
    context = EventContext(provider=webhook.provider, received_at=webhook.received_at, headers=headers)
    events = [adapter.normalize(event, context) for event in events_of(adapter, webhook.body, headers)]
    if webhook.kind == "resend":
        assert [event.event_id for event in events] == [f"resend:{headers['svix-id']}"]
    return [event.kind.value for event in events]


async def test_every_documented_payload_is_taken_and_understood(everybody: Everybody) -> None:
    every = cases(*KINDS)
    posted = [(case.kind, everybody.of_case(case)) for case in every]
    room = asyncio.Semaphore(AT_ONCE)

    async def post(kind: str, request: Signed) -> int:
        async with room:
            return (await everybody.post(kind, request)).status_code

    answers = await asyncio.gather(*(post(kind, request) for kind, request in posted))
    assert Counter(zip((kind for kind, _ in posted), answers, strict=True)) == Counter(
        (kind, 200) for kind, _ in posted
    )
    webhooks = await everybody.on_the_log()
    assert Counter((webhook.kind, webhook.body) for webhook in webhooks) == Counter(
        (kind, request.body) for kind, request in posted
    )
    kept = {name for webhook in webhooks for name, _ in webhook.headers}
    assert "svix-id" in kept
    assert "authorization" not in kept
    told = Counter((webhook.kind, kind) for webhook in webhooks for kind in kinds_told(webhook))
    assert told == Counter((case.kind, event["kind"]) for case in every for event in case.expected)

"""Every kind of provider over real HTTP: keys rotate, what nobody understands is kept, and a token is good once."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from pipeline import admin
from pipeline.gateway.routes import webhooks
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.echoes import echoed
from tests.support.gateway import Gateway, gateway
from tests.support.golden import EMAIL_ID, FOLDER
from tests.support.posting import KINDS, Key, key
from tests.support.seeing import records, until
from tests.support.worker import Worker
from topics.events import EventKind
from topics.registry import DEAD_LETTERS, DELIVERY_EVENTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS

EVENT = b'{"event": "never heard of"}'


async def add(world: Gateway, kind: str, *keys: Key) -> None:
    row = admin.Provider(kind, "127.0.0.1", 25, kind=kind, webhook_keys=tuple(one.entered for one in keys))
    await admin.add_provider(world.rt.pool, row, secret_ring(world.rt.settings))


async def post(world: Gateway, kind: str, by: Key, event: bytes = EVENT) -> httpx.Response:
    signed = by.make(event, f"{world.rt.settings.public_url}/webhooks/{kind}")
    return await world.http.post(f"/webhooks/{kind}", content=signed.body, headers=signed.headers)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway looks at a provider's row each time, not after three seconds."""
    monkeypatch.setattr(webhooks, "PROVIDER_TTL_S", 0.0)


@pytest.mark.usefixtures("soon")
async def test_two_keys_count_while_they_rotate_and_then_the_new_one_alone(settings: Settings) -> None:
    secret = secret_ring(settings)
    async with gateway(settings) as world:
        keys = {kind: (key(kind), key(kind), key(kind)) for kind in KINDS}
        for kind, (old, new, _) in keys.items():
            await add(world, kind, old)
            await admin.rotate_webhook_key(world.rt.pool, kind, new.entered, secret)
        for kind, (old, new, foreign) in keys.items():
            assert [(await post(world, kind, by)).status_code for by in (old, new)] == [200, 200], kind
            assert (await post(world, kind, foreign)).status_code in (401, 403), kind
            await admin.end_old_webhook_keys(world.rt.pool, kind)
        for kind, (old, new, _) in keys.items():
            assert (await post(world, kind, old)).status_code in (401, 403), kind
            assert (await post(world, kind, new)).status_code == 200, kind


@pytest.mark.usefixtures("soon")
async def test_while_postgres_is_away_providers_are_known_as_they_last_were(settings: Settings) -> None:
    async with gateway(settings) as world:
        by = key("mailersend")
        await add(world, "mailersend", by)
        assert (await post(world, "mailersend", by)).status_code == 200
        await world.rt.pool.close()
        assert (await post(world, "mailersend", by)).status_code == 200
        assert (await post(world, "mailersend", key("mailersend"))).status_code == 403
        assert (await post(world, "brevo", key("brevo"))).status_code == 503
        assert len(await records(settings, PROVIDER_WEBHOOKS)) == 2


async def test_who_has_no_password_is_asked_for_one(settings: Settings) -> None:
    async with gateway(settings) as world:
        for kind in ("postmark", "sparkpost", "mailjet", "brevo"):
            await add(world, kind, key(kind))
            for headers in ({}, {"Authorization": "Basic bm86bm8="}, {"Authorization": "Bearer no"}):
                answer = await world.http.post(f"/webhooks/{kind}", content=EVENT, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")


async def test_a_provider_that_looks_before_it_posts_finds_somebody(settings: Settings) -> None:
    async with gateway(settings) as world:
        await add(world, "mandrill")
        assert (await world.http.head("/webhooks/mandrill")).status_code == 200
        assert (await world.http.get("/webhooks/mandrill")).status_code == 200
        assert (await world.http.head("/webhooks/nobody")).status_code == 404
        # Signed with a key that everybody knows, before there is another: it is answered, and not kept.
        answer = await world.http.post("/webhooks/mandrill", data={"mandrill_events": "[]"})
        assert answer.status_code == 200
        assert await records(settings, PROVIDER_WEBHOOKS) == []


async def test_without_a_key_a_provider_is_told_to_come_again(settings: Settings) -> None:
    async with gateway(settings) as world:
        await add(world, "mailersend")
        assert (await post(world, "mailersend", key("mailersend"))).status_code == 503


async def test_a_token_is_good_for_one_body_and_its_repeats(settings: Settings) -> None:
    async with gateway(settings) as world:
        mailgun = key("mailgun")
        await add(world, "mailgun", mailgun)
        signed = mailgun.make(EVENT, "")
        stolen = signed.body.replace(b"never heard of", b"complained")
        first = await asyncio.gather(*(world.http.post("/webhooks/mailgun", content=signed.body) for _ in range(5)))
        assert {answer.status_code for answer in first} == {200}
        assert (await world.http.post("/webhooks/mailgun", content=stolen)).status_code == 403
        assert {webhook.body for *_, webhook in await records(settings, PROVIDER_WEBHOOKS)} == {signed.body}
        fresh = mailgun.make(EVENT, "").body
        bodies = [fresh.replace(b"never heard of", b"event %d" % number) for number in range(5)]
        at_once = await asyncio.gather(*(world.http.post("/webhooks/mailgun", content=body) for body in bodies))
        assert sorted(answer.status_code for answer in at_once) == [200, 403, 403, 403, 403]


async def test_what_nobody_understands_or_knows_spoils_nothing_else(settings: Settings, tmp_path: Path) -> None:
    newer = {kind: (FOLDER / kind / "newer_than_us.json").read_bytes() for kind in KINDS}
    good = {"event": "delivered", "timestamp": 1513299569, **echoed(EMAIL_ID), "a field of 2031": [{}]}
    batch = [good | {"sg_event_id": f"good-{number}"} for number in range(1_000)]
    batch[500] = {"event": ["not", "an", "event"]}
    batch[501] = {"event": "delivered", "timestamp": 1513299569, "sg_message_id": "somebody-else's"}
    async with gateway(settings) as world:
        for kind in KINDS:
            by = key(kind)
            await add(world, kind, by)
            assert (await post(world, kind, by, newer[kind])).status_code == 200
            if kind == "sendgrid":
                assert (await post(world, kind, by, json.dumps(batch)[1:-1].encode())).status_code == 200
    with Worker(settings, tmp_path / "worker"):

        async def all_normalized() -> bool:
            by_topic = [
                await records(settings, topic) for topic in (DELIVERY_EVENTS, UNCORRELATED_EVENTS, DEAD_LETTERS)
            ]
            return sum(map(len, by_topic)) >= 1_000 + len(KINDS)

        await until(all_normalized)
    events = [event for *_, event in await records(settings, DELIVERY_EVENTS)]
    waiting = [event for *_, event in await records(settings, UNCORRELATED_EVENTS)]
    # Without a tag of ours, those of unknown types only claim their email.
    claims = [event for event in waiting if event.kind is EventKind.UNKNOWN]
    assert {event.provider for event in claims if event.claimed_email_id == EMAIL_ID} == set(KINDS)
    assert sum(event.kind is EventKind.DELIVERED for event in events) == 998
    (parked,) = [event for event in waiting if event.kind is not EventKind.UNKNOWN]
    assert parked.provider_message_id == "somebody-else's"
    assert [dead_letter.reason for *_, dead_letter in await records(settings, DEAD_LETTERS)] == ["unrecognised"]


def test_every_kind_is_posted() -> None:
    assert {*KINDS, "ses", "sandbox", "mail"} == set(ADAPTERS)

"""Providers' webhooks over real HTTP: raw bytes on the log if they are authentic, a clear refusal if not."""

import asyncio
import base64
import contextlib
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import admin
from pipeline.hearing.parts import events_of
from pipeline.providers import sendgrid
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records, until
from topics.registry import PROVIDER_WEBHOOKS

KEY = ec.generate_private_key(ec.SECP256R1())
BODY = b'[{"event":"delivered", "sg_event_id":"x"}]  '


def signed(body: bytes, age_s: int = 0, key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, str]:
    timestamp = str(int(time.time()) - age_s)
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        "Content-Type": "application/json",
    }


async def add_provider(world: Gateway, name: str = "mailer", kind: str = "sendgrid") -> None:
    der = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    provider = admin.Provider(name, "127.0.0.1", 25, kind=kind, webhook_keys=(base64.b64encode(der).decode(),))
    await admin.add_provider(world.rt.pool, provider, world.rt.settings.secret.get_secret_value())


async def test_an_authentic_webhook_lies_on_the_log_byte_for_byte(settings: Settings) -> None:
    async with gateway(settings) as world:
        await add_provider(world)
        headers = {**signed(BODY), "X-Api-Key": "not to be kept", "Cookie": "nor this"}
        answer = await world.http.post("/webhooks/mailer", content=BODY, headers=headers)
        assert answer.status_code in range(200, 300)
        ((_, _, key, webhook),) = await records(settings, PROVIDER_WEBHOOKS)
        assert (key, webhook.provider, webhook.kind, webhook.body) == (None, "mailer", "sendgrid", BODY)
        assert dict(webhook.headers) == {name.lower(): value for name, value in signed(BODY).items()} | {
            name: value for name, value in webhook.headers if name.startswith("x-twilio")
        }


async def test_what_nobody_understands_is_taken_too_if_it_is_authentic(settings: Settings) -> None:
    async with gateway(settings) as world:
        await add_provider(world)
        for body in (b"", b"not json", b"\xff", b'[{"event":"never heard of"}]', b"[" * 100_000):
            answer = await world.http.post("/webhooks/mailer", content=body, headers=signed(body))
            assert answer.status_code in range(200, 300)
        assert len(await records(settings, PROVIDER_WEBHOOKS)) == 5


async def test_forged_and_stale_ones_are_refused_and_counted(settings: Settings) -> None:
    async with gateway(settings, webhook_max_age=60) as world:
        await add_provider(world)
        forgeries: tuple[tuple[bytes, dict[str, str]], ...] = (
            (BODY, {}),
            (BODY + b" ", signed(BODY)),
            (BODY, signed(BODY, key=ec.generate_private_key(ec.SECP256R1()))),
            (BODY, {**signed(BODY), "X-Twilio-Email-Event-Webhook-Signature": "!"}),
            (BODY, {**signed(BODY), "X-Twilio-Email-Event-Webhook-Timestamp": "soon"}),
            (BODY, signed(BODY, age_s=settings.webhook_max_age + 60)),
            (BODY, signed(BODY, age_s=-3_600)),
        )
        for body, headers in forgeries:
            answer = await world.http.post("/webhooks/mailer", content=body, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["error"]
        assert await records(settings, PROVIDER_WEBHOOKS) == []
        assert await world.metric('mailfold_forged_total{surface="webhook"}') == len(forgeries)
        # SendGrid repeats for a day: an outage of ours as long makes none of its signatures stale, whatever we set.
        answer = await world.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY, age_s=23 * 3_600))
        assert answer.status_code == 200


async def test_unknown_providers_and_those_without_webhooks_are_404(settings: Settings) -> None:
    async with gateway(settings) as world:
        await add_provider(world, "plain", "smtp")
        for name in ("plain", "nobody", "%00", "å", "x" * 5_000, "MAILER"):
            answer = await world.http.post(f"/webhooks/{name}", content=BODY, headers=signed(BODY))
            assert answer.status_code == 404
            assert set(answer.json()) == {"error", "where"}


async def test_what_is_larger_than_a_record_lies_there_in_parts(settings: Settings) -> None:
    large = b"[" + b",".join(b'{"event":"delivered","sg_event_id":"%d"}' % n for n in range(60_000)) + b"]"
    async with gateway(settings) as world:
        await add_provider(world)
        assert (await world.http.post("/webhooks/mailer", content=large, headers=signed(large))).status_code == 200
        webhooks = [webhook for _, _, _, webhook in await records(settings, PROVIDER_WEBHOOKS)]
        assert len(webhooks) > 2
        told = [event for webhook in webhooks for event in events_of(sendgrid, webhook.body, dict(webhook.headers))]
        assert sorted(told) == sorted(sendgrid.split(large, {}))
        tampered = large.replace(b"59999", b"99999")
        assert (await world.http.post("/webhooks/mailer", content=tampered, headers=signed(large))).status_code == 403
        assert (await world.http.post("/webhooks/mailer", content=b" " * 16_000_001)).status_code == 413


async def test_large_bodies_wait_for_each_other_and_nobody_else_does(settings: Settings) -> None:
    async with gateway(settings) as world, contextlib.AsyncExitStack() as stack:
        await add_provider(world)
        host, port = str(world.http.base_url.host), world.http.base_url.port
        large = b"[" + b" " * 1_000_000 + b"]"

        async def full() -> bool:
            """Whether there is no room, after one more that takes room: ours may have been faster than the last one."""
            _, writer = await asyncio.open_connection(host, port)
            stack.callback(writer.close)
            # As much as this is announced, and does not come.
            writer.write(b"POST /webhooks/mailer HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n[")
            await writer.drain()
            answer = await world.http.post("/webhooks/mailer", content=large, headers=signed(large))
            return answer.status_code == 503 and answer.headers["Retry-After"] == "2"

        await until(full)
        assert (await world.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY))).status_code == 200


async def test_a_log_that_is_away_is_a_503_so_that_the_provider_tries_again(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):
        await add_provider(world)
        proxy.away()
        answer = await world.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY))
        assert answer.status_code == 503
        proxy.back()

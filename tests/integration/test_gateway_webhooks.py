"""Test providers' webhooks over real HTTP: authentic ones are stored as raw bytes, others are refused."""

import asyncio
import base64
import contextlib
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import admin
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.providers import sendgrid
from pipeline.webhooks.splitting import events_of
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


async def add_provider(
    served: Gateway, name: str = "mailer", kind: str = "sendgrid", keys: tuple[str, ...] = ()
) -> None:
    der = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    provider = admin.Provider(name, "127.0.0.1", 25, kind=kind, webhook_keys=keys or (base64.b64encode(der).decode(),))
    await admin.add_provider(served.rt.pool, provider, secret_ring(served.rt.settings))


async def test_authentic_webhook_is_stored_byte_for_byte(settings: Settings) -> None:
    async with gateway(settings) as served:
        await add_provider(served)
        headers = {**signed(BODY), "X-Api-Key": "not to be kept", "Cookie": "not to be kept either"}
        answer = await served.http.post("/webhooks/mailer", content=BODY, headers=headers)
        assert answer.status_code in range(200, 300)
        ((_, _, key, webhook),) = await records(settings, PROVIDER_WEBHOOKS)
        assert (key, webhook.provider, webhook.kind, webhook.body) == (None, "mailer", "sendgrid", BODY)
        assert dict(webhook.headers) == {name.lower(): value for name, value in signed(BODY).items()} | {
            name: value for name, value in webhook.headers if name.startswith("x-twilio")
        }


async def test_authentic_webhook_is_stored_even_if_unparsable(settings: Settings) -> None:
    async with gateway(settings) as served:
        await add_provider(served)
        for body in (b"", b"not json", b"\xff", b'[{"event":"never heard of"}]', b"[" * 100_000):
            answer = await served.http.post("/webhooks/mailer", content=body, headers=signed(body))
            assert answer.status_code in range(200, 300)
        assert len(await records(settings, PROVIDER_WEBHOOKS)) == 5


async def test_forged_and_stale_webhooks_are_refused_and_counted(settings: Settings) -> None:
    async with gateway(settings, webhook_max_age=60) as served:
        await add_provider(served)
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
            answer = await served.http.post("/webhooks/mailer", content=body, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["error"]
        assert await records(settings, PROVIDER_WEBHOOKS) == []
        assert await served.metric('mailfold_forged_total{surface="webhook"}') == len(forgeries)
        # SendGrid repeats a webhook for a day, so its signatures stay valid that long, whatever the setting.
        answer = await served.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY, age_s=23 * 3_600))
        assert answer.status_code == 200


async def test_unknown_providers_and_those_without_webhooks_are_404(settings: Settings) -> None:
    async with gateway(settings) as served:
        await add_provider(served, "plain", "smtp")
        for name in ("plain", "nobody", "%00", "å", "x" * 5_000, "MAILER"):
            answer = await served.http.post(f"/webhooks/{name}", content=BODY, headers=signed(BODY))
            assert answer.status_code == 404
            assert set(answer.json()) == {"error", "where"}


async def test_webhook_larger_than_a_record_is_stored_in_parts(settings: Settings) -> None:
    large = b"[" + b",".join(b'{"event":"delivered","sg_event_id":"%d"}' % n for n in range(60_000)) + b"]"
    async with gateway(settings) as served:
        await add_provider(served)
        assert (await served.http.post("/webhooks/mailer", content=large, headers=signed(large))).status_code == 200
        webhooks = [webhook for _, _, _, webhook in await records(settings, PROVIDER_WEBHOOKS)]
        assert len(webhooks) > 2
        stored = [event for webhook in webhooks for event in events_of(sendgrid, webhook.body, dict(webhook.headers))]
        assert sorted(stored) == sorted(sendgrid.split(large, {}))
        tampered = large.replace(b"59999", b"99999")
        assert (await served.http.post("/webhooks/mailer", content=tampered, headers=signed(large))).status_code == 403
        assert (await served.http.post("/webhooks/mailer", content=b" " * 16_000_001)).status_code == 413


async def test_slow_large_bodies_of_strangers_do_not_block_webhooks(settings: Settings) -> None:
    async with gateway(settings) as served, contextlib.AsyncExitStack() as stack:
        await add_provider(served)
        host, port = str(served.http.base_url.host), served.http.base_url.port
        for head in (b"Content-Length: 2000000\r\n\r\n[", b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n") * 10:
            _, writer = await asyncio.open_connection(host, port)
            stack.callback(writer.close)
            writer.write(b"POST /webhooks/mailer HTTP/1.1\r\nHost: x\r\n" + head)
            await writer.drain()
        large = b"[" + b" " * 2_000_000 + b"]"
        for body in (BODY, large):
            assert (await served.http.post("/webhooks/mailer", content=body, headers=signed(body))).status_code == 200


async def test_bodies_that_fill_the_memory_leave_room_for_other_owners(settings: Settings) -> None:
    async with (
        gateway(settings, body_max=10_000_000, inbound_max_bytes=10_000, body_memory=1_000_000) as served,
        contextlib.AsyncExitStack() as stack,
    ):
        await add_provider(served)
        await add_provider(served, "passworded", "postmark", ("user:password",))
        host, port = str(served.http.base_url.host), served.http.base_url.port
        # The minimum of memory is twice the largest body, here 20 MB. One address may use half of it.
        for _ in range(2):
            _, writer = await asyncio.open_connection(host, port)
            stack.callback(writer.close)
            writer.write(b"POST /webhooks/mailer HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
            writer.write(b" " * 7_000_000)
            await writer.drain()
        await until(lambda: _holds_body_bytes(served, 14_000_000))
        large = b"[" + b" " * 8_000_000 + b"]"
        answer = await served.http.post("/webhooks/mailer", content=large, headers=signed(large))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert await served.metric('mailfold_http_refused_total{why="memory"}') >= 1
        assert (await served.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY))).status_code == 200
        authenticated = b'{"RecordType":"Open"}' + b" " * 3_000_000
        answer = await served.http.post("/webhooks/passworded", content=authenticated, auth=("user", "password"))
        assert answer.status_code == 200
    assert served.rt.stop.is_set()


async def _holds_body_bytes(served: Gateway, size: int) -> bool:
    return await served.metric("mailfold_http_body_bytes") >= size


async def test_password_is_checked_before_the_body_is_read(settings: Settings) -> None:
    async with gateway(settings) as served:
        await add_provider(served, "passworded", "postmark", ("user:password",))
        host, port = str(served.http.base_url.host), served.http.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /webhooks/passworded HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n[")
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()
        good = await served.http.post("/webhooks/passworded", content=b"{}", auth=("user", "password"))
        assert good.status_code == 200


async def test_unavailable_log_is_a_503(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served,
    ):
        await add_provider(served)
        proxy.away()
        answer = await served.http.post("/webhooks/mailer", content=BODY, headers=signed(BODY))
        assert answer.status_code == 503
        proxy.back()

"""Test Amazon SES's webhooks over SNS, with a real HTTPS server in SNS's place."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
from aiohttp import web

from pipeline import admin
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records
from tests.support.sns import HOST, TOPIC, Amazon, amazon
from topics.registry import PROVIDER_WEBHOOKS

OTHER = "arn:aws:sns:eu-west-1:123456789012:another"


@contextlib.asynccontextmanager
async def gateway_and_amazon(settings: Settings) -> AsyncIterator[tuple[Gateway, Amazon]]:
    """Serve a gateway with an SES provider, and the server that it takes for SNS."""
    async with amazon(settings.data_dir) as sns, gateway(settings, connector=sns.connector) as served:
        row = admin.Provider("ours", kind="ses", via="api", webhook_keys=(TOPIC,))
        await admin.add_provider(served.rt.pool, row, secret_ring(settings))
        yield served, sns


async def post(served: Gateway, body: bytes) -> httpx.Response:
    # SNS sends JSON as plain text: https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
    return await served.http.post("/webhooks/ours", content=body, headers={"Content-Type": "text/plain; charset=UTF-8"})


async def test_both_signature_versions_are_accepted_and_the_certificate_fetched_once(settings: Settings) -> None:
    async with gateway_and_amazon(settings) as (served, sns):
        sns.slow_s = 0.2
        bodies = [sns.message(version=version) for version in ("1", "2") * 5]
        answers = await asyncio.gather(*(post(served, body) for body in bodies))
        assert {answer.status_code for answer in answers} == {200}
        assert sns.certificates == 1
        assert sorted(w.body for *_, w in await records(settings, PROVIDER_WEBHOOKS)) == sorted(bodies)


async def test_subscription_is_confirmed_only_if_signed_and_for_an_allowed_topic(
    settings: Settings,
) -> None:
    async with gateway_and_amazon(settings) as (served, sns):
        request = sns.message("SubscriptionConfirmation")
        elsewhere = f"https://{HOST}.example.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=1"
        for refused in (
            sns.message("SubscriptionConfirmation", TopicArn=OTHER),
            request.replace(b"2336412f37", b"2336412f38"),
            sns.message("SubscriptionConfirmation", SubscribeURL=elsewhere),
        ):
            assert (await post(served, refused)).status_code == 403
        assert sns.confirmed == []
        assert (await post(served, request)).status_code == 200
        assert sns.confirmed == [TOPIC]
        assert await records(settings, PROVIDER_WEBHOOKS) == []


async def test_unavailable_amazon_is_a_503_until_it_answers(settings: Settings) -> None:
    async with gateway_and_amazon(settings) as (served, sns):
        sns.answers = [web.Response(status=500), web.Response(body=b"x" * 100_000)]
        for status in (503, 503, 200):
            assert (await post(served, sns.message())).status_code == status
        request = sns.message("SubscriptionConfirmation")
        sns.answers = [web.Response(status=500)]
        for status in (503, 200):
            assert (await post(served, request)).status_code == status
        assert sns.confirmed == [TOPIC]


async def test_redirects_and_other_hosts_are_refused_and_failures_are_cached(settings: Settings) -> None:
    async with gateway_and_amazon(settings) as (served, sns):
        sns.answers = [web.Response(status=302, headers={"Location": f"https://{HOST}/elsewhere.pem"})]
        for _ in range(3):
            assert (await post(served, sns.message())).status_code == 403
        assert sns.certificates == 1
        other = json.loads(sns.message())
        for url in (f"http://{HOST}/SimpleNotificationService-00.pem", "https://s3.amazonaws.com/a.pem", "file:///etc"):
            assert (await post(served, json.dumps(other | {"SigningCertURL": url}).encode())).status_code == 403
        assert sns.certificates == 1

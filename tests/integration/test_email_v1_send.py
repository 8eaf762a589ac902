"""`POST /v1/Email/` over real HTTP: each message's result, and its records on the log."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from pipeline import admin
from pipeline.settings import Settings
from tests.support.dialects import BRAND, email_v1
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records
from tests.support.templates import put
from topics import ids
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest


async def send(world: Gateway, *messages: Any, key: str = "", **changed: Any) -> httpx.Response:
    headers = {"X-Api-Key": changed.pop("api_key", world.key), **({"Idempotency-Key": key} if key else {})}
    return await world.http.post("/v1/Email/", json={"Messages": list(messages)}, headers=headers)


async def with_template(world: Gateway, *kinds: str) -> None:
    for kind in kinds or ("token",):
        await put(world.rt, f"{BRAND}.{kind}", subject="Photos", html="<p>{{ Token|default('') }} for {{ To }}</p>")


async def requests(settings: Settings) -> list[SendRequest]:
    return [record for *_, record in await records(settings, SEND_REQUESTS)]


async def test_results_come_in_the_order_of_the_messages_and_bad_ones_stop_nobody(settings: Settings) -> None:
    async with gateway(settings) as world:
        await with_template(world)
        other = "00000000-0000-4000-8000-000000000000"
        answer = await send(
            world,
            email_v1(To="nobody"),
            email_v1(),
            email_v1(BrandId=other),
            5,
            email_v1(To="bertil@example.com", NumPhotos=-1),
            email_v1(Type="purchase"),
        )
        assert answer.status_code == 200, answer.text
        results = answer.json()["Results"]
        assert [result["Status"] for result in results] == [400, 200, 404, 400, 200, 400]
        assert [("MessageId" in result, "Error" in result) for result in results] == [
            (status == 200, status != 200) for status in (400, 200, 404, 400, 200, 400)
        ]
        assert results[0]["Error"] == "Messages[0].To: not an email address"
        assert results[2]["Error"] == (
            f"Messages[2]: this brand has no template for token: push one named {other}.token "
            "(`mailfold templates push`, or PUT /templates)"
        )
        found = {request.email_id: request for request in await requests(settings)}
        assert set(found) == {results[1]["MessageId"], results[4]["MessageId"]}
        bertil = found[results[4]["MessageId"]]
        assert (bertil.dialect, bertil.kind, bertil.brand) == ("email_v1", "token", BRAND)
        assert json.loads(bytes(bertil.details)) == {"Token": "abcde", "NumPhotos": -1}
        assert bertil.template is not None
        assert bertil.template.version == 1


async def test_a_key_makes_a_repeat_the_same_emails_and_another_recipient_a_conflict(settings: Settings) -> None:
    async with gateway(settings) as world:
        await with_template(world)
        both = [email_v1(), email_v1(To="bertil@example.com")]
        answers = await asyncio.gather(*[send(world, *both, key="k1") for _ in range(3)])
        said = [answer.json()["Results"] for answer in answers]
        assert said[0] == said[1] == said[2]
        assert [result["MessageId"] for result in said[0]] == [
            ids.email_id("acme", "email_v1", "k1", nth) for nth in (0, 1)
        ]
        swapped = (await send(world, *both[::-1], key="k1")).json()["Results"]
        assert [result["Status"] for result in swapped] == [409, 409]
        assert len({request.email_id for request in await requests(settings)}) == 2
        without = [(await send(world, email_v1())).json()["Results"][0]["MessageId"] for _ in range(2)]
        assert without[0] != without[1]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "end of body: not JSON"),
        (b"[]", "body: expected object, got array"),
        (b"{}", ".Messages: missing"),
        (b'{"Messages": 5}', ".Messages: expected array, got int"),
        (b'{"Messages": ["\xff"]}', "byte 15: not UTF-8"),
    ],
)
async def test_what_is_no_request_is_a_400_with_an_error(settings: Settings, body: bytes, error: str) -> None:
    async with gateway(settings) as world:
        answer = await world.http.post("/v1/Email/", content=body, headers={"X-Api-Key": world.key})
        assert answer.status_code == 400
        assert answer.json()["Error"].startswith(error)


async def test_over_the_limits_is_a_429_for_each(settings: Settings) -> None:
    async with gateway(settings) as world:
        await admin.add_tenant(world.rt.pool, admin.Tenant("small", batch_max=2))
        await put(world.rt, f"{BRAND}.token", tenant="small", subject="Photos", html="x")
        key = await admin.add_key(world.rt.pool, "small")
        answer = await send(world, *[email_v1()] * 3, api_key=key)
        assert [result["Status"] for result in answer.json()["Results"]] == [200, 200, 429]
        assert (await send(world)).json() == {"Results": []}


async def test_a_log_that_is_away_is_a_503_for_each_and_for_all(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as world,
    ):
        await with_template(world)
        assert (await send(world, email_v1(), key="k")).status_code == 200
        proxy.away()
        answer = await send(world, email_v1(), email_v1(To="x"), key="k2")
        assert answer.status_code == 503
        assert [result["Status"] for result in answer.json()["Results"]] == [503, 400]
        assert answer.json()["Error"].startswith("nothing could be taken")
        proxy.back()

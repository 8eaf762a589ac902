"""Test one-click unsubscribe (RFC 8058) over real HTTP: only the POST unsubscribes."""

import pytest

from pipeline.content import tokens
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records
from topics import ids
from topics.events import DeliveryEvent, EventKind
from topics.registry import DELIVERY_EVENTS

EMAIL = ids.email_id("acme", "fasttrack", "one")
FIELD = {"List-Unsubscribe": "One-Click"}


def link(settings: Settings) -> str:
    signer = Signer(secret_ring(settings), "unsubscribe")
    return f"/u/{tokens.unsubscribe_token(signer, EMAIL)}"


async def events(served: Gateway) -> list[DeliveryEvent]:
    return [event for *_, event in await records(served.rt.settings, DELIVERY_EVENTS)]


async def test_post_is_durable_when_answered_and_a_repeat_is_the_same_event(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await served.http.post(link(settings), data=FIELD)
        assert (answer.status_code, "location" in answer.headers) == (200, False)
        (event,) = await events(served)
        assert (event.email_id, event.kind, event.provider) == (EMAIL, EventKind.UNSUBSCRIBED, "unsubscribe")
        again = await served.http.post(link(settings), files={"List-Unsubscribe": (None, "One-Click")})
        assert (again.status_code, again.content) == (200, answer.content)
        assert {each.event_id for each in await events(served)} == {event.event_id}


async def test_get_head_and_incomplete_posts_unsubscribe_nobody(settings: Settings) -> None:
    async with gateway(settings) as served:
        page = await served.http.get(link(settings))
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert '<form method="post">' in page.text
        assert '<input type="hidden" name="List-Unsubscribe" value="One-Click">' in page.text
        head = await served.http.head(link(settings))
        assert (head.status_code, head.content) == (200, b"")
        for body in ({}, {"List-Unsubscribe": "No"}, {"Something": "One-Click"}):
            answer = await served.http.post(link(settings), data=body)
            assert answer.status_code == 400
            assert "<form" in answer.text
        assert await events(served) == []


async def test_page_has_no_script_no_external_files_and_no_address(settings: Settings) -> None:
    async with gateway(settings) as served:
        for page in (await served.http.get(link(settings)), await served.http.get("/u/x")):
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert "frame-ancestors 'none'" in policy
            assert "no-store" in page.headers["cache-control"]
            assert page.headers["referrer-policy"] == "no-referrer"
            for word in ("<script", "http://", "https://", "src=", "@import", "url(", "@example", str(EMAIL)):
                assert word not in page.text


async def test_forged_link_gets_a_404_page_without_a_form(settings: Settings) -> None:
    pixel = tokens.pixel_token(Signer(secret_ring(settings), "track"), EMAIL)
    async with gateway(settings) as served:
        for path in (f"/u/{pixel}", link(settings)[:-3] + "AAA", "/u/x"):
            for answer in (await served.http.get(path), await served.http.post(path, data=FIELD)):
                assert answer.status_code == 404
                assert answer.headers["content-type"] == "text/html; charset=utf-8"
                assert "<form" not in answer.text
        assert await served.metric('mailfold_forged_total{surface="unsubscribe"}') == 6
        assert await events(served) == []


async def test_unavailable_log_is_a_503_page_with_the_button(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served,
    ):
        proxy.away()
        answer = await served.http.post(link(settings), data=FIELD)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "<form" in answer.text
        proxy.back()


@pytest.mark.parametrize("size", [10_001, 1_000_000])
async def test_large_body_is_refused_with_413(settings: Settings, size: int) -> None:
    async with gateway(settings) as served:
        answer = await served.http.post(link(settings), content=b"x" * size)
        assert answer.status_code == 413

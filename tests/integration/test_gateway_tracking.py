"""Pixel and click over real HTTP: what lands on the log, and what is answered whoever asks."""

import pytest

from pipeline import tokens
from pipeline.settings import Settings
from pipeline.signing import Signer
from tests.support.gateway import gateway, records
from topics import ids
from topics.events import DeliveryEvent, EventKind
from topics.registry import DELIVERY_EVENTS

EMAIL = ids.email_id("acme", "fasttrack", "one")
THUNDERBIRD = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0"
PERSON = {"User-Agent": THUNDERBIRD}


def signer(settings: Settings) -> Signer:
    return Signer(settings.secret.get_secret_value(), "track")


def pixel(settings: Settings) -> str:
    return f"/o/{tokens.pixel_token(signer(settings), EMAIL)}.gif"


def click(settings: Settings, url: str) -> str:
    return f"/c/{tokens.click_token(signer(settings), EMAIL, 0, url)}"


async def events(settings: Settings) -> list[DeliveryEvent]:
    return [event for *_, event in await records(settings, DELIVERY_EVENTS)]


async def test_a_fetched_pixel_is_an_open(settings: Settings) -> None:
    async with gateway(settings) as world:
        answer = await world.http.get(pixel(settings), headers=PERSON)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/gif"
        assert "no-store" in answer.headers["cache-control"]
        assert answer.content[:6] == b"GIF89a"
        assert len(answer.content) == 43
        (_, _, key, event) = (await records(settings, DELIVERY_EVENTS))[0]
        assert key == EMAIL.encode()
        assert event == DeliveryEvent(
            email_id=EMAIL,
            event_id=event.event_id,
            kind=EventKind.OPENED,
            occurred_at=event.recorded_at,
            recorded_at=event.recorded_at,
            provider="pixel",
            user_agent=THUNDERBIRD,
        )
        assert event.event_id.startswith("pixel:")
        await world.http.get(pixel(settings), headers=PERSON)
        assert len({each.event_id for each in await events(settings)}) == 2


@pytest.mark.parametrize(("agent", "reason"), [("Mozilla/5.0", "apple-mail-privacy"), ("", "no-user-agent")])
async def test_a_machine_s_open_is_labelled(settings: Settings, agent: str, reason: str) -> None:
    async with gateway(settings) as world:
        await world.http.get(pixel(settings), headers={"User-Agent": agent})
        assert [event.machine for event in await events(settings)] == [reason]


async def test_a_forged_pixel_gets_the_same_picture_and_nothing_is_noted(settings: Settings) -> None:
    true = pixel(settings)
    changed = "A" if true[3] != "A" else "B"
    other = tokens.pixel_token(Signer("another secret of at least 32 characters", "track"), EMAIL)
    link = tokens.click_token(signer(settings), EMAIL, 0, "https://example.com")
    async with gateway(settings) as world:
        honest = await world.http.get(true, headers=PERSON)
        forgeries = [f"/o/{token}.gif" for token in (changed + true[4:-4], other, link, "x", "%ff", "å", "A" * 5_000)]
        for forgery in forgeries:
            answer = await world.http.get(forgery, headers=PERSON)
            assert (answer.status_code, answer.content) == (200, honest.content)
            assert {**answer.headers, "date": ""} == {**honest.headers, "date": ""}
        assert len(await events(settings)) == 1
        assert await world.metric('mailfold_forged_total{surface="pixel"}') == len(forgeries)


async def test_a_followed_link_is_a_click_and_leads_where_it_was_signed_to(settings: Settings) -> None:
    url = "https://example.com/start?a=1&b=%20x#y"
    async with gateway(settings) as world:
        answer = await world.http.get(click(settings, url), headers=PERSON)
        assert (answer.status_code, answer.headers["location"]) == (302, url)
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        (event,) = await events(settings)
        assert (event.kind, event.url, event.machine, event.provider) == (EventKind.CLICKED, url, "", "click")


async def test_a_target_that_is_not_ascii_is_encoded_and_splits_no_header(settings: Settings) -> None:
    async with gateway(settings) as world:
        answer = await world.http.get(click(settings, "https://example.com/å\r\nSet-Cookie: x=1"), headers=PERSON)
        assert answer.status_code == 302
        assert "set-cookie" not in answer.headers
        assert answer.headers["location"].startswith("https://example.com/%C3%A5")


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//example.com", "/x", "", "http://", "https://["]
)
async def test_a_link_leads_to_http_only_even_if_we_signed_it(settings: Settings, url: str) -> None:
    async with gateway(settings) as world:
        answer = await world.http.get(click(settings, url), headers=PERSON)
        assert answer.status_code == 404
        assert await events(settings) == []


async def test_a_forged_link_is_a_404(settings: Settings) -> None:
    true = click(settings, "https://example.com/")
    forgeries = (
        true[:-1] + ("A" if true[-1] != "A" else "B"),
        true + "AAAA",
        pixel(settings)[:-4].replace("/o/", "/c/"),
    )
    async with gateway(settings) as world:
        for forgery in (*forgeries, "/c/x", "/c/%ff"):
            answer = await world.http.get(forgery, headers=PERSON)
            assert answer.status_code == 404
            assert answer.json()["error"] == "no such link"
            assert "location" not in answer.headers
        assert await events(settings) == []
        assert await world.metric('mailfold_forged_total{surface="click"}') == 5


async def test_head_answers_and_is_no_event(settings: Settings) -> None:
    async with gateway(settings) as world:
        assert (await world.http.head(pixel(settings), headers=PERSON)).status_code == 200
        answer = await world.http.head(click(settings, "https://example.com/"), headers=PERSON)
        assert (answer.status_code, answer.headers["location"]) == (302, "https://example.com/")
        assert await events(settings) == []

"""Test tracking pixels and links over real HTTP: their responses and the events on the log."""

import asyncio

import pytest

from pipeline.content import tokens
from pipeline.gateway import hit_limit
from pipeline.runtime.secrets.secret_ring import SecretRing, secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records, until
from topics import ids
from topics.codec import decode, encode
from topics.events import DeliveryEvent, EventKind
from topics.registry import DELIVERY_EVENTS

EMAIL = ids.email_id("acme", "fasttrack", "one")
THUNDERBIRD = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0"
PERSON = {"User-Agent": THUNDERBIRD}


def signer(settings: Settings) -> Signer:
    return Signer(secret_ring(settings), "track")


def pixel(settings: Settings) -> str:
    return f"/o/{tokens.pixel_token(signer(settings), EMAIL)}.gif"


def click(settings: Settings, url: str) -> str:
    return f"/c/{tokens.click_token(signer(settings), EMAIL, 0, url)}"


async def events(served: Gateway, count: int) -> list[DeliveryEvent]:
    """Wait until that many events are confirmed, because responses are sent first; return the events on the log."""
    await until(
        lambda: _metric_equals(served, 'mailfold_appends_total{result="confirmed",topic="delivery-events"}', count)
    )
    stored = [event for *_, event in await records(served.rt.settings, DELIVERY_EVENTS)]
    # An event that the log confirmed too late was also spooled, and so is there twice.
    return list({event.event_id: event for event in stored}.values())


async def _metric_equals(served: Gateway, sample: str, value: float) -> bool:
    return await served.metric(sample) == value


async def test_fetched_pixel_is_an_open(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await served.http.get(pixel(settings), headers=PERSON)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/gif"
        assert "no-store" in answer.headers["cache-control"]
        assert answer.content[:6] == b"GIF89a"
        assert len(answer.content) == 43
        (event,) = await events(served, 1)
        assert {key for _, _, key, _ in await records(settings, DELIVERY_EVENTS)} == {EMAIL.encode()}
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
        await served.http.get(pixel(settings), headers=PERSON)
        assert len({each.event_id for each in await events(served, 2)}) == 2


@pytest.mark.parametrize(("agent", "reason"), [("Mozilla/5.0", "apple-mail-privacy"), ("", "no-user-agent")])
async def test_open_by_a_machine_is_labelled(settings: Settings, agent: str, reason: str) -> None:
    async with gateway(settings) as served:
        await served.http.get(pixel(settings), headers={"User-Agent": agent})
        assert [event.machine for event in await events(served, 1)] == [reason]


async def test_forged_pixel_gets_the_same_picture_and_records_nothing(settings: Settings) -> None:
    valid_path = pixel(settings)
    changed = "A" if valid_path[3] != "A" else "B"
    other = tokens.pixel_token(Signer(SecretRing.of("another secret of at least 32 characters"), "track"), EMAIL)
    link = tokens.click_token(signer(settings), EMAIL, 0, "https://example.com")
    async with gateway(settings) as served:
        expected = await served.http.get(valid_path, headers=PERSON)
        forgeries = [
            f"/o/{token}.gif" for token in (changed + valid_path[4:-4], other, link, "x", "%ff", "å", "A" * 5_000)
        ]
        for forgery in forgeries:
            answer = await served.http.get(forgery, headers=PERSON)
            assert (answer.status_code, answer.content) == (200, expected.content)
            assert {**answer.headers, "date": ""} == {**expected.headers, "date": ""}
        await until(lambda: _metric_equals(served, 'mailfold_forged_total{surface="pixel"}', len(forgeries)))
        assert len(await events(served, 1)) == 1


async def test_followed_link_is_a_click_and_redirects_to_its_target(settings: Settings) -> None:
    url = "https://example.com/start?a=1&b=%20x#y"
    async with gateway(settings) as served:
        answer = await served.http.get(click(settings, url), headers=PERSON)
        assert (answer.status_code, answer.headers["location"]) == (302, url)
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        (event,) = await events(served, 1)
        assert (event.kind, event.url, event.machine, event.provider) == (EventKind.CLICKED, url, "", "click")


async def test_non_ascii_target_is_encoded_and_adds_no_header(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await served.http.get(click(settings, "https://example.com/å\r\nSet-Cookie: x=1"), headers=PERSON)
        assert answer.status_code == 302
        assert "set-cookie" not in answer.headers
        assert answer.headers["location"].startswith("https://example.com/%C3%A5")


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//example.com", "/x", "", "http://", "https://["]
)
async def test_signed_link_redirects_to_http_urls_only(settings: Settings, url: str) -> None:
    async with gateway(settings) as served:
        answer = await served.http.get(click(settings, url), headers=PERSON)
        assert answer.status_code == 404
        assert await events(served, 0) == []


async def test_forged_link_is_a_404(settings: Settings) -> None:
    valid_path = click(settings, "https://example.com/")
    forgeries = (
        valid_path[:-1] + ("A" if valid_path[-1] != "A" else "B"),
        valid_path + "AAAA",
        pixel(settings)[:-4].replace("/o/", "/c/"),
    )
    async with gateway(settings) as served:
        for forgery in (*forgeries, "/c/x", "/c/%ff"):
            answer = await served.http.get(forgery, headers=PERSON)
            assert answer.status_code == 404
            assert answer.json()["error"] == "no such link"
            assert "location" not in answer.headers
        assert await events(served, 0) == []
        assert await served.metric('mailfold_forged_total{surface="click"}') == 5


async def test_head_is_answered_and_records_nothing(settings: Settings) -> None:
    async with gateway(settings) as served:
        head = await served.http.head(pixel(settings), headers=PERSON)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "43")
        answer = await served.http.head(click(settings, "https://example.com/"), headers=PERSON)
        assert (answer.status_code, answer.headers["location"]) == (302, "https://example.com/")
        assert await events(served, 0) == []


@pytest.mark.parametrize(
    "prefetch",
    [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}, {"X-Purpose": "preview"}],
    ids=lambda prefetch: next(iter(prefetch)),
)
async def test_prefetch_is_labelled_a_machine(settings: Settings, prefetch: dict[str, str]) -> None:
    async with gateway(settings) as served:
        answer = await served.http.get(click(settings, "https://example.com/"), headers={**PERSON, **prefetch})
        assert answer.status_code == 302
        await served.http.get(pixel(settings), headers={**PERSON, **prefetch})
        assert [(event.kind.value, event.machine) for event in await events(served, 2)] == [
            ("clicked", "prefetch"),
            ("opened", "prefetch"),
        ]
        assert await served.metric('mailfold_tracked_total{by="prefetch",event="opened"}') == 1


async def test_follower_of_the_hidden_link_is_labelled_a_machine(settings: Settings) -> None:
    trap = f"/t/{tokens.trap_token(signer(settings), EMAIL)}"
    async with gateway(settings) as served:
        answer = await served.http.get(trap, headers=PERSON)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "location" not in answer.headers
        forged = await served.http.get("/t/x", headers=PERSON)
        assert (forged.status_code, forged.content) == (answer.status_code, answer.content)
        (event,) = await events(served, 1)
        assert (event.kind, event.machine, event.email_id) == (EventKind.CLICKED, "trap-link", EMAIL)


async def test_scanner_network_is_read_from_trusted_proxies_only_and_not_stored(
    settings: Settings,
) -> None:
    scanner, forged = {"X-Forwarded-For": "1.2.3.4, 104.47.0.9"}, {"X-Forwarded-For": "104.47.0.9, 192.0.2.7"}
    async with gateway(settings) as served:
        await served.http.get(pixel(settings), headers=PERSON | scanner)
        assert [event.machine for event in await events(served, 1)] == [""]
    async with gateway(settings, trusted_proxies=("127.0.0.0/8",)) as served:
        await served.http.get(pixel(settings), headers=PERSON | scanner)
        await served.http.get(pixel(settings), headers=PERSON | forged)
        recorded = await events(served, 2)
        assert sorted(event.machine for event in recorded) == ["", "", "security-scanner"]
        assert not any(b"104.47" in encode(DELIVERY_EVENTS, event) for event in recorded)


async def test_buffered_events_are_written_on_shutdown(settings: Settings) -> None:
    async with gateway(settings) as served:
        answers = await asyncio.gather(*(served.http.get(pixel(settings), headers=PERSON) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
    on_log = {event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}
    lines = [line for file in (settings.data_dir / "spool").glob("*.events") for line in file.read_bytes().splitlines()]
    assert len(on_log | {decode(DELIVERY_EVENTS, line).event_id for line in lines}) == 50


async def test_other_methods_are_refused_and_counted(settings: Settings) -> None:
    async with gateway(settings) as served:
        for path in (pixel(settings), click(settings, "https://example.com/"), "/t/x"):
            answer = await served.http.post(path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert await served.metric('mailfold_http_requests_total{status="405",surface="pixel"}') == 1
        assert await events(served, 0) == []


async def test_hits_of_one_link_are_answered_and_recorded_up_to_a_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hit_limit, "MAX_HITS_PER_WINDOW", 3)
    async with gateway(settings) as served:
        pixel_path = pixel(settings)
        for path in (pixel_path, pixel_path.removesuffix(".gif")) * 5:
            assert (await served.http.get(path, headers=PERSON)).status_code == 200
        for _ in range(5):
            answer = await served.http.get(click(settings, "https://shop.example/"), headers=PERSON)
            assert answer.status_code == 302
        assert (await served.http.get(click(settings, "https://other.example/"), headers=PERSON)).status_code == 302
        kinds = sorted(event.kind.value for event in await events(served, 7))
        assert kinds == ["clicked"] * 4 + ["opened"] * 3
        await until(lambda: _metric_equals(served, 'mailfold_tracked_over_limit_total{event="opened"}', 7))
        await until(lambda: _metric_equals(served, 'mailfold_tracked_over_limit_total{event="clicked"}', 2))

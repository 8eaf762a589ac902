"""The console's pages show what became of every email, and its forms do what the commands do; over real HTTP."""

import re
import uuid

import msgspec
import pytest

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.settings import Settings
from tests.support import suppressed
from tests.support.changes import Log, acked, event, identified, request
from tests.support.console import ConsoleBrowser, console_browser, hostile_emails, text_of
from tests.support.dispatching import accept
from tests.support.gateway import Gateway
from tests.support.job_rows import INSERT_JOBS, ask
from tests.support.projecting import caught_up, gateway_and_projector
from tests.support.seeing import on, until
from topics.contents import MessageContent
from topics.events import EventKind
from topics.registry import OPERATOR_ACTIONS

pytestmark = pytest.mark.timeout(120)


def with_console(settings: Settings) -> Settings:
    return settings.model_copy(update={"console": True})


async def publish(served: Gateway, *logs: Log) -> None:
    """Publish changes, and wait until lists show them: every partition must have got as far."""
    await suppressed.publish(served, *logs)
    await until(lambda: caught_up(served.rt))


def bounced_email(number: int, now: int) -> Log:
    log = Log().fold(msgspec.structs.replace(request(number, now), subject=f"Subject {number}"))
    return log.fold(acked(number, now + 1)).fold(event(number, EventKind.BOUNCED, now + 2))


async def scoped_browser_key(served: Gateway, *scopes: KeyScope, brand: str = "") -> str:
    return await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(frozenset(scopes), brand))


async def test_emails_are_listed_found_and_explained(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        assert "No email yet" in (await browser.get("/console")).text
        assert "No email is like that" in (await browser.get("/console/emails")).text
        now = served.rt.clock()
        delivered = Log().fold(request(2, now)).fold(acked(2, now)).fold(event(2, EventKind.DELIVERED, now))
        await publish(served, bounced_email(1, now), delivered)

        listed = text_of((await browser.get("/console/emails")).text)
        assert "player1@example.com" in listed
        assert "player2@example.com" in listed
        only_bounced = text_of((await browser.get("/console/emails?status=bounced")).text)
        assert "player1@example.com" in only_bounced
        assert "player2@example.com" not in only_bounced
        assert "player1@example.com" in (await browser.get("/console")).text

        shown = text_of((await browser.get(f"/console/emails/{identified(1)}")).text)
        assert "Bounced at" in shown
        assert "no such user" in shown
        assert f"mailfold trace {identified(1)}" in shown
        assert "facts/0/0" in shown

        for query in (identified(1), identified(1).upper(), "activity-1", "<1@relay>"):
            found = await browser.post("/console/emails/search", {"q": query})
            assert found.headers.get("location") == f"/console/emails/{identified(1)}", query
        by_address = await browser.post("/console/emails/search", {"q": "player1@example.com"})
        assert by_address.status_code == 200
        assert "Subject 1" in by_address.text
        assert "player2@" not in by_address.text
        by_filter = await browser.post("/console/emails/search", {"q": "status:bounced"})
        assert by_filter.headers["location"] == "/console/emails?status=bounced"
        wrong = await browser.post("/console/emails/search", {"q": "colour:red"})
        assert wrong.status_code == 400
        assert 'value="colour:red"' in wrong.text


async def test_filters_and_moments_are_those_of_the_history_api(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        now = served.rt.clock()
        await publish(served, bounced_email(1, now - 9_000), Log().fold(request(2, now)))
        shown = {
            "status:bounced": "1",
            "status:accepted": "2",
            "domain:example.com": "12",
            "domain:other.example": "",
            "bounce:hard": "1",
            "bounce:soft": "",
            "provider:relay": "1",
            "brand:1": "2",
            "after:1h": "12",
            "before:1h": "",
            "api:fasttrack status:bounced": "1",
        }
        for query, numbers in shown.items():
            found = await browser.post("/console/emails/search", {"q": query})
            page = (await browser.get(found.headers["location"])).text
            assert {f"player{number}@" for number in (1, 2) if f"player{number}@example.com" in page} == {
                f"player{number}@" for number in numbers
            }, query
        for query in ("status:wrong", "bounce:no", "after:soon"):
            assert (await browser.post("/console/emails/search", {"q": query})).status_code == 400


async def test_email_is_shown_as_it_was_at_a_moment(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        now = served.rt.clock()
        await publish(served, bounced_email(1, now - 9_000))
        page = (await browser.get(f"/console/emails/{identified(1)}")).text
        moments = re.findall(r'\?as_of=(\d+)"', page)
        assert len(moments) == 3
        first = text_of((await browser.get(f"/console/emails/{identified(1)}?as_of={moments[0]}")).text)
        assert "not handed to a provider yet" in first
        assert "no such user" not in first
        assert "As it was at" in first
        before = int(moments[0]) - 1
        assert (await browser.get(f"/console/emails/{identified(1)}?as_of={before}")).status_code == 404
        assert "No email is like that" in (await browser.get(f"/console/emails?as_of={before}")).text
        assert (await browser.get(f"/console/emails/{identified(1)}?as_of=x")).status_code == 400


async def test_pages_of_a_list_show_one_moment_and_every_email_once(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        now = served.rt.clock()
        await publish(served, *(bounced_email(number, now - number * 1000) for number in range(80)))
        first = await browser.get("/console/emails")
        following = (
            first.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
        )
        await publish(served, bounced_email(500, served.rt.clock()))
        second = await browser.get(following)
        ids = [identified(number) for number in range(80)]
        assert [(email in first.text) + (email in second.text) for email in ids] == [1] * 80
        assert identified(500) not in second.text
        assert "@" not in following
        # An address has its pages by forms, not by URLs.
        assert (await browser.get("/console/emails?place=wrong")).status_code == 400


async def test_key_sees_no_other_tenant_brand_or_address(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served:
        now = served.rt.clock()
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        foreign = Log().fold(request(7, now, tenant="other")).fold(acked(7, now, tenant="other"))
        text = "<player1@example.com> is unknown"
        bounce = msgspec.structs.replace(event(1, EventKind.BOUNCED, now), text=text)
        address = "player1@example.com"
        email = msgspec.structs.replace(request(1, now), identity=address)
        custody = msgspec.structs.replace(acked(1, now), provider_message_id=f"<{address}>")
        await publish(served, foreign, Log().fold(email).fold(custody).fold(bounce), bounced_email(2, now))
        async with console_browser(served) as browser:
            assert (await browser.get(f"/console/emails/{identified(7, 'other')}")).status_code == 404
            for query in (identified(7, "other"), "activity-7", "player7@example.com"):
                found = await browser.post("/console/emails/search", {"q": query})
                assert "player7@example.com" not in found.text.replace(f'value="{query}"', "")
                if location := found.headers.get("location"):
                    assert (await browser.get(location)).status_code == 404
        masked = await scoped_browser_key(served, KeyScope.HISTORY_READ)
        async with console_browser(served, masked) as browser:
            for path in ("/console", "/console/emails", f"/console/emails/{identified(1)}"):
                page = (await browser.get(path)).text
                assert "player1@" not in page, path
            for query in ("player1@example.com", "<player1@example.com>"):
                assert (await browser.post("/console/emails/search", {"q": query})).status_code == 403
            assert (await browser.get(f"/console/emails/{identified(1)}/message")).status_code == 403
        one_brand = await scoped_browser_key(served, KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES, brand="1")
        async with console_browser(served, one_brand) as browser:
            listed = (await browser.get("/console/emails")).text
            assert "player2@example.com" in listed
            assert "player1@example.com" not in listed
            assert (await browser.get(f"/console/emails/{identified(1)}")).status_code == 404
            assert (await browser.get("/console/emails?brand=2")).status_code == 403


async def test_message_is_shown_as_it_was_accepted(settings: Settings) -> None:
    html = "<p>Hello <b>Anna</b></p><script>window.hit=1</script><link rel=preconnect href=http://evil.example>"
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        [sent] = await accept(served.rt, "anna@example.com", content=MessageContent(html=html, text="Hello in text"))
        custody = msgspec.structs.replace(acked(1, sent.recorded_at), email_id=sent.email_id)
        await publish(served, Log().fold(sent).fold(custody))
        page = (await browser.get(f"/console/emails/{sent.email_id}/message")).text
        assert "Hello in text" in page
        assert "anna@example.com" in page
        assert "<script" not in page
        alone = await browser.get(f"/console/emails/{sent.email_id}/html")
        assert alone.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert alone.headers["x-frame-options"] == "SAMEORIGIN"
        assert alone.headers["x-dns-prefetch-control"] == "off"
        assert "<link" not in alone.text
        assert "<b>Anna</b>" in alone.text
        await publish(served, bounced_email(1, served.rt.clock()))
        without = await browser.get(f"/console/emails/{identified(1)}/message")
        assert "names no content" in without.text


async def test_jobs_are_listed_and_replayed_with_a_reason(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        assert "Nothing waits for a decision" in (await browser.get("/console/dead-letters")).text
        own, foreign = str(uuid.uuid4()), str(uuid.uuid4())
        for email_id, lane in ((own, "acme/1"), (foreign, "other/1")):
            await ask(
                served.rt.pool,
                f"{INSERT_JOBS} values ('emit', %s, 1, 'open', %s, 'dead', 'x')",
                email_id,
                lane,
            )
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        operator = await scoped_browser_key(served, KeyScope.OPERATE)
        async with console_browser(served, operator) as operating:
            listed = (await operating.get("/console/dead-letters")).text
            assert own in listed
            assert foreign not in listed
            shown = await operating.get("/console/dead-letters/show", params={"id": f"emit/{own}/open"})
            assert "Conversion open" in shown.text
            hidden = await operating.get("/console/dead-letters/show", params={"id": f"emit/{foreign}/open"})
            assert hidden.status_code == 404
            for query, shows in (("lane=acme/1&queue=emit", True), ("lane=acme/2", False), ("queue=dispatch", False)):
                filtered = (await operating.get(f"/console/dead-letters?{query}")).text
                assert (own in filtered) is shows, query
            ids = [f"emit/{own}/open", f"emit/{foreign}/open", "nonsense"]
            assert (await operating.post("/console/dead-letters/replay", {"id": ids})).status_code == 400
            replayed = await operating.post("/console/dead-letters/replay", {"id": ids, "reason": "mended"})
            assert "1 of 3 replayed" in text_of(replayed.text)
        states = dict(await ask(served.rt.pool, "select stream::text, state from jobs.jobs"))
        assert states == {own: "pending", foreign: "dead"}
        [action] = await on(settings, OPERATOR_ACTIONS)
        assert (action.what, action.email_id, action.reason) == ("dead.replay", own, "mended")
        assert action.actor.startswith("console ")


async def test_lanes_are_paused_and_resumed_with_a_reason(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        assert "No lane has work" in (await browser.get("/console/lanes")).text
        job = f"{INSERT_JOBS} values ('emit', %s, 1, 'open', 'acme/1', 'pending', 'x')"
        await ask(served.rt.pool, job, str(uuid.uuid4()))
        fields: dict[str, str | list[str]] = {"queue": "emit", "lane": "acme/1"}
        assert (await browser.post("/console/lanes/pause", fields)).status_code == 400
        paused = await browser.post("/console/lanes/pause", {**fields, "reason": "the receiver is away"})
        page = text_of((await browser.get(paused.headers["location"])).text)
        assert "The lane is paused" in page
        assert "the receiver is away (console " in page
        unknown = {**fields, "lane": "acme/no-such-brand", "reason": "x"}
        assert (await browser.post("/console/lanes/pause", unknown)).status_code == 404
        provider: dict[str, str | list[str]] = {"queue": "provider", "lane": "acme/1", "reason": "x"}
        assert (await browser.post("/console/lanes/pause", {**provider, "lane": "no-such"})).status_code == 404
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        elsewhere = {**fields, "lane": "other/1", "reason": "x"}
        operator = await scoped_browser_key(served, KeyScope.OPERATE)
        async with console_browser(served, operator) as operating:
            for action in ("pause", "resume"):
                assert (await operating.post(f"/console/lanes/{action}", elsewhere)).status_code == 404
                assert (await operating.post(f"/console/lanes/{action}", provider)).status_code == 404
            assert (await operating.post("/console/lanes/resume", {**fields, "reason": "back"})).status_code == 303
        assert await ask(served.rt.pool, "select lane from jobs.lanes where paused_at is not null") == []
        assert (await browser.post("/console/lanes/resume", {**fields, "reason": "again"})).status_code == 404
        recorded = [(each.what, each.target, each.reason) for each in await on(settings, OPERATOR_ACTIONS)]
        assert recorded[:2] == [
            ("lanes.pause", "emit acme/1", "the receiver is away"),
            ("lanes.resume", "emit acme/1", "back"),
        ]


async def test_address_is_suppressed_found_and_lifted(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        assert "No address is suppressed" in (await browser.get("/console/suppressions")).text
        fields: dict[str, str | list[str]] = {"address": "anna@example.com", "brand": "*", "kind": "complaint"}
        assert (await browser.post("/console/suppressions/add", fields)).status_code == 400
        with_address = {**fields, "reason": "anna@example.com called"}
        assert (await browser.post("/console/suppressions/add", with_address)).status_code == 400
        added = await browser.post("/console/suppressions/add", {**fields, "reason": "she called"})
        assert "This address gets no mail" in added.text
        assert "she called" in added.text
        assert "anna@" not in added.text
        assert "she called" in (await browser.get("/console/suppressions")).text
        assert "she called" not in (await browser.get("/console/suppressions?reason=manual")).text
        lifted = await browser.post("/console/suppressions/lift", {**fields, "reason": "she called again"})
        assert "This address gets mail" in lifted.text
        found = await browser.post("/console/suppressions/find", {"address": "anna@example.com"})
        assert "lifted" in found.text
        recorded = [(each.what, each.reason) for each in await on(settings, OPERATOR_ACTIONS)]
        assert recorded == [("suppressions.add", "she called"), ("suppressions.remove", "she called again")]
        reader = await scoped_browser_key(served, KeyScope.SUPPRESSIONS_READ)
        async with console_browser(served, reader) as reading:
            assert "Suppress an address" not in (await reading.get("/console/suppressions")).text


async def test_hostile_texts_are_shown_as_texts(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served, console_browser(served) as browser:
        await publish(served, *hostile_emails(served.rt.clock() - 200_000))
        await _assert_harmless(browser, "/console")
        await _assert_harmless(browser, "/console/emails")
        for number in range(1, 11):
            await _assert_harmless(browser, f"/console/emails/{identified(number)}")


async def _assert_harmless(browser: ConsoleBrowser, path: str) -> None:
    page = (await browser.get(path)).text
    for forbidden in ("<script", "<img", "<style", "<base", "<meta http-equiv", "onerror=window.hit=1>", "<svg/"):
        assert forbidden not in page, (path, forbidden)
    assert 'href="javascript' not in page
    assert "http://evil.example" not in "".join(part.partition('"')[0] for part in page.split('="')[1:])

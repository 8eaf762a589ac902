"""Go through every page and action of the console in a real browser, with hostile texts in all that it shows."""

import uuid

import msgspec
import pytest
from playwright.async_api import expect

from pipeline.settings import Settings
from tests.support import suppressed
from tests.support.changes import Log, acked, event, identified, request
from tests.support.chromium import SeenPage, chromium, sign_in
from tests.support.console import HOSTILE, hostile_emails
from tests.support.dispatching import accept
from tests.support.gateway import Gateway
from tests.support.job_rows import INSERT_JOBS, ask
from tests.support.projecting import caught_up, gateway_and_projector
from tests.support.seeing import until
from topics.contents import MessageContent
from topics.events import EventKind

pytestmark = [pytest.mark.timeout(300), pytest.mark.ci]
PATHS = ("/console", "/console/emails", "/console/dead-letters", "/console/lanes", "/console/suppressions")


def with_console(settings: Settings) -> Settings:
    return settings.model_copy(update={"console": True})


def host_of(served: Gateway) -> str:
    return served.http.base_url.netloc.decode()


async def publish(served: Gateway, *logs: Log) -> None:
    await suppressed.publish(served, *logs)
    await until(lambda: caught_up(served.rt))


async def fill_with_hostile_texts(served: Gateway) -> str:
    """Publish emails and rows of which every text is hostile, and return the id of one that has a message."""
    await suppressed.publish(served, *hostile_emails(served.rt.clock() - 200_000))
    html = "<p>Hello from the message</p>" + "".join(HOSTILE).encode("utf-8", "replace").decode()
    content = MessageContent(html=html, text=html, headers=(("X-Hostile", html.replace("\0", "")),))
    [sent] = await accept(served.rt, "anna@example.com", content=content)
    custody = msgspec.structs.replace(acked(99, sent.recorded_at), email_id=sent.email_id)
    await publish(served, Log().fold(sent).fold(custody))
    for number, text in enumerate(HOSTILE):
        storable = text.replace("\0", "").encode("utf-8", "replace").decode()
        await ask(
            served.rt.pool,
            "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, last_error) "
            "values ('emit', %s, 1, 'open', %s, 'dead', 'x', %s)",
            str(uuid.uuid4()),
            f"acme/{storable}",
            storable,
        )
        await ask(
            served.rt.pool,
            "insert into jobs.lanes (queue, lane, paused_at, paused_reason) values ('emit', %s, now(), %s)",
            f"acme/{storable}",
            storable,
        )
        await ask(served.rt.pool, "update admin.api_keys set label = %s", f"{number} {storable}")
    return sent.email_id


async def test_every_page_is_free_of_faults_with_hostile_texts(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served:
        email_id = await fill_with_hostile_texts(served)
        async with chromium(host_of(served)) as seen:
            await sign_in(seen, served.key)
            emails = [f"/console/emails/{identified(number)}" for number in range(1, len(HOSTILE) + 1)]
            failures = [f"{emails[0]}?only=failures", "/console/emails?status=bounced", "/console/nothing"]
            for path in (*PATHS, *emails, f"/console/emails/{email_id}"):
                await seen.open(path)
                assert not await seen.is_hit(), path
                assert seen.faults == [], path
                assert await seen.page.locator("script, style, main img, base, main [style], main object").count() == 0
            for path in failures:
                await seen.open(path)
            faults = [fault for fault in seen.faults if "404 (Not Found)" not in fault]
            assert faults == []


async def test_scripts_of_a_message_do_not_run_and_nothing_is_loaded(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served:
        email_id = await fill_with_hostile_texts(served)
        async with chromium(host_of(served)) as seen:
            await sign_in(seen, served.key)
            for path in (f"/console/emails/{email_id}/message", f"/console/emails/{email_id}/html"):
                await seen.open(path)
                shown = seen.page.frame_locator("iframe") if path.endswith("message") else seen.page
                await expect(shown.locator("body")).to_contain_text("Hello from the message")
                assert not await seen.is_hit()
            # What the message wanted and the policy of its document forbade, the browser says; nothing else goes wrong.
            forbidden = ("Blocked script execution", "Content Security Policy", "sandboxed")
            faults = [fault for fault in seen.faults if not any(word in fault for word in forbidden)]
            assert [fault for fault in faults if not fault.endswith(" csp")] == []
            assert len(faults) < len(seen.faults)


async def test_people_find_an_email_and_act_by_keyboard(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served:
        now = served.rt.clock()
        bounced = Log().fold(request(1, now)).fold(acked(1, now)).fold(event(1, EventKind.BOUNCED, now))
        await publish(served, bounced)
        job = ("emit", identified(2), 1, "open", "acme/1", "dead", b"x")
        await ask(served.rt.pool, f"{INSERT_JOBS} values (%s, %s, %s, %s, %s, %s, %s)", *job)
        async with chromium(host_of(served)) as seen:
            await _find_by_keyboard(seen, served.key)
            await _replay_pause_and_suppress(seen)
            await _sign_out(seen)
            assert seen.faults == []
        assert await ask(served.rt.pool, "select state from jobs.jobs where name = 'open'") == [("pending",)]
        assert await ask(served.rt.pool, "select lane from jobs.lanes where paused_at is not null") == [("acme/1",)]


async def _find_by_keyboard(seen: SeenPage, key: str) -> None:
    await seen.open("/console/emails")
    page = seen.page
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/console/emails")
    await page.get_by_label("Search emails").focus()
    await page.keyboard.type("player1@example.com")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/console/emails/search")
    assert "player1" not in page.url
    await page.get_by_role("link", name="player1@example.com").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/console/emails/{identified(1)}")
    await expect(page.get_by_label("Where it stands")).to_contain_text("no such user")


async def _replay_pause_and_suppress(seen: SeenPage) -> None:
    page = seen.page
    await seen.open("/console/dead-letters")
    await page.get_by_label("Conversion open").check()
    await page.get_by_label("Reason to replay the selected").fill("mended")
    await page.get_by_role("button", name="Replay the selected").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("1 of 1 replayed")
    await seen.open("/console/lanes")
    section = page.get_by_label("Pause another lane")
    await section.get_by_label("What").select_option("Conversions")
    await section.get_by_label("Lane").fill("acme/1")
    await section.get_by_label("Reason").fill("the receiver is away")
    await section.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("status")).to_contain_text("The lane is paused")
    await seen.open("/console/suppressions")
    form = page.get_by_label("Suppress an address")
    await form.get_by_label("Address", exact=True).fill("anna@example.com")
    await form.get_by_label("Reason (no address in it)").fill("she called")
    await form.get_by_role("button", name="Suppress").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("This address gets no mail")
    await page.get_by_label("Reason to lift it").fill("she called again")
    await page.get_by_role("button", name="Lift").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("This address gets mail")


async def _sign_out(seen: SeenPage) -> None:
    await seen.open("/console")
    await seen.page.get_by_text("acme", exact=True).click()
    await seen.page.get_by_role("button", name="Sign out").click()
    await seen.page.wait_for_url("**/console/sign-in")


async def test_pages_fit_every_window_also_without_scripts(settings: Settings) -> None:
    async with gateway_and_projector(with_console(settings)) as served:
        email_id = await fill_with_hostile_texts(served)
        one = f"/console/emails/{identified(1)}"
        for width in (320, 390, 1280):
            async with chromium(host_of(served), width=width) as seen:
                await sign_in(seen, served.key)
                for path in (*PATHS, one, f"/console/emails/{email_id}/message", "/console/sign-in"):
                    await seen.open(path)
                    assert await seen.overflow_px() <= 0, (width, path)
        async with chromium(host_of(served), scripts=False) as plain:
            await sign_in(plain, served.key)
            await plain.open(one)
            await expect(plain.page.get_by_label("Where it stands")).to_be_visible()

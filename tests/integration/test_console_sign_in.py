"""Sessions of the console: how they begin, what they may do, and how they end; asked over real HTTP."""

import asyncio
import ipaddress
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope, console_sessions
from pipeline.errors import InvalidSettings
from pipeline.gateway.key_lookup import UNKNOWN_KEYS_PER_S
from pipeline.gateway.route_scopes import OPEN_CONSOLE_ROUTES, SESSION_ROUTES
from pipeline.gateway.server import PORT_FILE
from pipeline.settings import Settings
from tests.support.console import ConsoleBrowser, console_browser
from tests.support.gateway import gateway
from tests.support.job_rows import INSERT_JOBS, ask
from tests.support.mtas import free_port
from tests.support.seeing import until

pytestmark = pytest.mark.timeout(120)
PAGES = sorted(path for method, path in SESSION_ROUTES if method == "GET")
ACTIONS = sorted(path for method, path in SESSION_ROUTES if method == "POST")
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
CSP_PARTS = ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'")


def called(path: str) -> str:
    return path.replace("{email_id}", UNKNOWN_ID).replace("/show", "/show?id=dead-letters/0/99")


def is_sign_in(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and answer.headers["location"].startswith("/console/sign-in")


async def test_session_begins_with_a_key_and_ends_with_sign_out(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        assert is_sign_in(await browser.get("/console"))
        assert (await browser.get("/console/")).headers["location"] == "/console"
        refused = await browser.sign_in("mfk_wrong")
        assert refused.status_code == 401
        assert "unknown, revoked or expired" in refused.text
        assert "mfk_wrong" not in refused.text

        opened = await browser.sign_in(served.key, "/console/lanes")
        assert (opened.status_code, opened.headers["location"]) == (303, "/console/lanes")
        cookie = next(value for name, value in opened.headers.multi_items() if name == "set-cookie")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "acme" in (await browser.get("/console")).text

        kept = browser.session()
        assert (await browser.post("/console/sign-out", {})).status_code == 303
        browser.http.cookies.set("mailfold-console", kept, domain="127.0.0.1", path="/")
        assert is_sign_in(await browser.get("/console"))
        assert await ask(served.rt.pool, "select * from admin.console_sessions") == []


async def test_database_has_neither_the_key_nor_the_cookie(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served) as browser:
        stored = str(await ask(served.rt.pool, "select s::text from admin.console_sessions s"))
        assert browser.session() not in stored
        assert browser.session().encode().hex() not in stored
        assert served.key.encode().hex() not in stored


async def test_planted_cookie_becomes_no_session(settings: Settings) -> None:
    """Session fixation: whoever signs in gets a new cookie, whatever was there before."""
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        browser.http.cookies.set("mailfold-console", "planted-by-somebody-else", domain="127.0.0.1", path="/")
        await browser.sign_in(served.key)
        first = browser.session()
        assert first != "planted-by-somebody-else"
        await browser.sign_in(served.key)
        assert browser.session() != first
        # The session before has ended with the new sign-in.
        assert len(await ask(served.rt.pool, "select * from admin.console_sessions")) == 1


async def test_session_ends_with_its_key_and_with_time(settings: Settings) -> None:
    async with gateway(settings, console=True) as served:
        ends = {
            "idle": "update admin.console_sessions set last_seen_at = now() - interval '61 minutes'",
            "lifetime": "update admin.console_sessions set expires_at = now() - interval '1 second'",
        }
        for statement in ends.values():
            async with console_browser(served) as browser:
                assert (await browser.get("/console")).status_code == 200
                await ask(served.rt.pool, statement)
                assert is_sign_in(await browser.get("/console"))
        expired = await admin.add_key(
            served.rt.pool, "acme", limits=KeyLimits(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )
        async with console_browser(served, "") as browser:
            assert (await browser.sign_in(expired)).status_code == 401
        async with console_browser(served) as browser:
            await admin.revoke_key(served.rt.pool, admin.key_names(served.key)[0])

            async def has_ended() -> bool:
                return is_sign_in(await browser.get("/console"))

            # A key is cached for some seconds.
            await until(has_ended, 10)


async def test_all_sessions_of_a_key_end_at_once(settings: Settings) -> None:
    async with (
        gateway(settings, console=True) as served,
        console_browser(served) as one,
        console_browser(served) as other,
    ):
        assert (await other.get("/console")).status_code == 200
        await one.post("/console/sign-out-everywhere", {})
        assert is_sign_in(await other.get("/console"))


async def test_every_page_needs_a_session_and_exactly_its_scopes(settings: Settings) -> None:
    async with gateway(settings, console=True) as served:
        keys = {
            scope: await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(frozenset({scope})))
            for scope in KeyScope
        }
        async with console_browser(served, "") as stranger:
            for path in PAGES:
                assert is_sign_in(await stranger.get(called(path))), path
            for path in ACTIONS:
                assert is_sign_in(await stranger.post(path, {})), path
        for scope, key in keys.items():
            async with console_browser(served, key) as browser:
                for method, path in SESSION_ROUTES:
                    if "sign-out" in path:
                        continue
                    answer = await (browser.get(called(path)) if method == "GET" else browser.post(path, {}))
                    missing = [each for each in SESSION_ROUTES[method, path] if each is not scope]
                    assert (answer.status_code == 403) is bool(missing), (scope, path, answer.status_code)
                    assert answer.status_code != 500, (scope, path, answer.text)


async def test_no_action_without_the_token_of_the_form_or_from_another_site(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served) as browser:
        fields: dict[str, str | list[str]] = {"queue": "dispatch", "lane": "acme/1", "reason": "x"}
        job = f"{INSERT_JOBS} values ('dispatch', %s, 1, 'send', 'acme/1', 'pending', 'x')"
        await ask(served.rt.pool, job, UNKNOWN_ID)
        for token in ("", "0" * 64):
            assert (await browser.post("/console/lanes/pause", fields, token=token)).status_code == 403
        foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
        data = {"form_token": browser.token, **fields}
        assert (await browser.http.post("/console/lanes/pause", data=data, headers=foreign)).status_code == 403
        async with console_browser(served) as other:
            assert (await browser.post("/console/lanes/pause", fields, token=other.token)).status_code == 403
        assert await ask(served.rt.pool, "select * from jobs.lanes") == []
        assert (await browser.post("/console/lanes/pause", fields)).status_code == 303
        assert len(await ask(served.rt.pool, "select * from jobs.lanes where paused_at is not null")) == 1


async def test_link_from_another_site_opens_the_page_with_the_session(settings: Settings) -> None:
    """Browsers send a SameSite=Strict cookie only with the second request, which comes from our own page."""
    async with gateway(settings, console=True) as served:
        answer = await served.http.get("/console/lanes?a=b", headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200
        assert '<a href="/console/lanes?a=b">' in answer.text
        assert '<meta http-equiv="refresh" content="0; url=/console/lanes?a=b">' in answer.text
        assert is_sign_in(await served.http.get("/console/lanes?a=b", headers={"Sec-Fetch-Site": "same-origin"}))
        ended = {"Sec-Fetch-Site": "cross-site", "Cookie": "mailfold-console=ended"}
        assert is_sign_in(await served.http.get("/console/lanes", headers=ended))


async def test_no_action_by_get(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served) as browser:
        parameters = {"form_token": browser.token, "queue": "dispatch", "lane": "acme/1", "reason": "x"}
        for path in ACTIONS:
            answer = await browser.get(path, params=parameters)
            assert answer.status_code in (404, 405), path
        assert (await browser.get("/console")).status_code == 200
        assert await ask(served.rt.pool, "select * from jobs.lanes") == []


async def test_sign_in_form_of_another_browser_is_refused(settings: Settings) -> None:
    """Sign-in CSRF: a page of another site can't sign somebody in with its own key."""
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        await browser.get("/console/sign-in")
        form = {"form_token": browser.token, "key": served.key}
        assert (await served.http.post("/console/sign-in", data=form)).status_code == 400
        async with console_browser(served, "") as other:
            await other.get("/console/sign-in")
            assert (await browser.post("/console/sign-in", {"key": served.key}, token=other.token)).status_code == 403
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert (await browser.http.post("/console/sign-in", data=form, headers=headers)).status_code == 403
        assert await ask(served.rt.pool, "select * from admin.console_sessions") == []


async def test_sign_in_leads_to_no_other_site(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        for wanted in ("https://evil.example", "//evil.example", "/\\evil.example", "/console//evil"):
            assert (await browser.sign_in(served.key, wanted)).headers["location"] == "/console", wanted
            assert "evil" not in (await browser.get("/console/sign-in", params={"next": wanted})).text, wanted


async def test_every_answer_has_the_headers_of_a_page(settings: Settings) -> None:
    async with gateway(settings, console=True) as served, console_browser(served) as browser:
        paths = [*map(called, PAGES), "/console/sign-in", "/console/nothing", "/console/emails?status=wrong"]
        for path in paths:
            answer = await browser.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["referrer-policy"] == "no-referrer", path
            assert answer.headers["cache-control"] == "no-store", path
            if "/html" not in path:
                assert answer.headers["x-frame-options"] == "DENY", path
                policy = answer.headers["content-security-policy"]
                assert [part for part in CSP_PARTS if part not in policy] == [], path
            assert "text/html" in answer.headers["content-type"], path
            assert answer.status_code in (200, 400, 404), path


async def test_wrong_keys_and_sessions_are_slowed_down_as_in_the_api(settings: Settings) -> None:
    attempts = 2 * int(UNKNOWN_KEYS_PER_S) + 20
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        await browser.get("/console/sign-in")
        slowed = 'mailfold_api_keys_refused_total{why="slowed"}'
        before = await served.metric(slowed)
        wrong = [f"wrong-key-{number}" for number in range(attempts)]
        answers = await asyncio.gather(*(browser.post("/console/sign-in", {"key": key}) for key in wrong))
        assert {answer.status_code for answer in answers} == {401}
        by_keys = await served.metric(slowed)
        assert by_keys > before
        cookies = [{"Cookie": f"mailfold-console=wrong{number}"} for number in range(attempts)]
        asked = (served.http.get("/console", headers=cookie) for cookie in cookies)
        assert all(map(is_sign_in, await asyncio.gather(*asked)))
        assert await served.metric(slowed) > by_keys


async def test_oldest_session_of_a_key_ends_beyond_their_number(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_sessions, "MAX_SESSIONS_PER_KEY", 2)
    async with (
        gateway(settings, console=True) as served,
        console_browser(served) as oldest,
        console_browser(served) as older,
        console_browser(served) as newest,
    ):
        assert is_sign_in(await oldest.get("/console"))
        assert (await older.get("/console")).status_code == 200
        assert (await newest.get("/console")).status_code == 200


async def test_console_is_not_there_unless_it_is_switched_on(settings: Settings) -> None:
    async with gateway(settings) as served:
        for _, path in (*SESSION_ROUTES, *OPEN_CONSOLE_ROUTES):
            assert (await served.http.get(called(path))).status_code == 404, path


async def test_console_has_a_port_of_its_own(settings: Settings) -> None:
    port = free_port()
    async with gateway(settings, console=True, console_port=port) as served:
        assert int((settings.data_dir / PORT_FILE).read_text()) != port
        assert (await served.http.get("/console/sign-in")).status_code == 404
        assert (await served.http.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/")).headers["location"] == "/console"
            for path in ("/healthz", "/v1/Email/", "/docs", "/consolex"):
                assert (await http.get(path)).status_code == 404, path
            assert (await ConsoleBrowser(http).sign_in(served.key)).status_code == 303


async def test_console_port_is_not_the_gateways_own(settings: Settings) -> None:
    port = free_port()
    with pytest.raises(InvalidSettings, match="MAILFOLD_CONSOLE_PORT"):
        async with gateway(settings, console=True, port=port, console_host="127.0.0.2", console_port=port):
            pass


async def test_key_from_another_network_opens_no_session(settings: Settings) -> None:
    limits = KeyLimits(networks=(ipaddress.ip_network("203.0.113.0/24"),))
    async with gateway(settings, console=True) as served, console_browser(served, "") as browser:
        key = await admin.add_key(served.rt.pool, "acme", limits=limits)
        answer = await browser.sign_in(key)
        assert (answer.status_code, browser.session()) == (401, "")
        assert "must not be used from this address" in answer.text

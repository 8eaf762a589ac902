"""The inbox's pages: what they list, and that nothing which a sender writes can run, load or break them."""

import contextlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pipeline.devstack.sandbox import api, pages
from pipeline.devstack.sandbox.mailbox import SandboxMessage
from pipeline.devstack.sandbox.server import open_sandbox
from pipeline.runtime.web.mail_frame import MAIL_CSP, MAX_HTML_CHARS
from pipeline.runtime.web.style import STYLE
from pipeline.settings import Settings

NOON = 1_800_000_000_000
HINTS = pages.InboxHints("127.0.0.1:2525", "http://127.0.0.1:8025")
SCRIPT = "<script>alert(1)</script>"

MALFORMED = [
    b"",
    b"\r\n",
    b"no header at all",
    b"Content-Type: text/html; charset=martian\r\n\r\n\xff\xfe",
    b"Content-Type: text/plain; charset*=utf-8''x\r\n\r\nhi",
    b'Content-Type: text/plain; charset="a\x00b"\r\n\r\nhi',
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nleft open",
    b"From: <<<>>>,,;;\r\nTo: @\r\nDate: yesterday\r\nMessage-ID: [x\r\nContent-Type: ;;;\r\n\r\nhi",
    b"Subject: =?utf-8?b?////?=\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
    b"Content-Disposition: attachment; filename*=utf-8'en'\xff\r\nContent-Type: message/rfc822\r\n\r\nSubject: in",
    b"Subject: \xff\xfe\x00\x1b[31m\r\nFrom: \xff <\x00>\r\nX-\xff: \xff\r\n\r\n\x00\xff\x1b[2J",
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n\r\n" * 5_000,
    b"X: y\r\n" * 5_000,
    b"Subject: " + b"=?utf-8?q?x?= " * 5_000 + b"\r\n\r\n",
    b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(3_000)),
]


def message(raw: bytes, number: int = 1, *recipients: str) -> SandboxMessage:
    return SandboxMessage(number, "q", NOON, "b@mailfold.test", recipients or ("anna@example.test",), False, raw)


def inbox_page(*messages: SandboxMessage, has_older: bool = False, is_newest: bool = True) -> str:
    return pages.inbox(pages.InboxView(messages, len(messages), is_newest, has_older), HINTS)


def message_page(email: SandboxMessage) -> str:
    return pages.message(email, "127.0.0.1:2580", [])


class Elements(HTMLParser):
    """The elements of a page with their attributes, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def assert_harmless(page: str) -> None:
    """Check that a page has only elements of ours, no handler of events, and no URL but of the inbox."""
    elements = Elements(page.replace(STYLE, ""))
    assert not {tag for tag, _ in elements.found} & {"script", "img", "object", "embed", "form", "base", "link", "svg"}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("href", "src"):
            assert re.fullmatch(r"(/[a-z0-9/?=]*|#[a-z0-9-]+)", attributes.get(name) or "/"), attributes
    assert [frame.get("sandbox") for frame in elements.named("iframe")] in ([], [""])


def test_inbox_shows_time_brand_addresses_subject_and_state() -> None:
    email = message(b"From: Nordlicht <news@nordlicht.test>\r\nSubject: Hello\r\n\r\nhi")
    email.record(NOON, "webhook: delivered", "delivered")
    page = inbox_page(email)
    for text in ("Hello", "Nordlicht", "news@nordlicht.test", "anna@example.test", "2027-01-15 08:00:00"):
        assert text in page
    assert '<span class="badge good">delivered</span>' in page
    assert_harmless(page)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "accepted"),
        ([""], "accepted"),
        (["processed"], "accepted"),
        (["delivered", "open", "click"], "clicked"),
        (["spamreport", "delivered"], "spam report"),
        (["delivered", "bounce"], "bounced"),
        (["deferred", "delivered"], "delivered"),
    ],
)
def test_state_is_the_most_significant_event(events: list[str], state: str) -> None:
    email = message(b"")
    for event in events:
        email.record(NOON, "text", event)
    assert pages.state(email)[0] == state


def test_empty_inbox_says_how_to_send_a_message() -> None:
    page = inbox_page()
    assert "No message yet" in page
    assert "127.0.0.1:2525" in page
    assert "http://127.0.0.1:8025/channels/email/batch" in page
    assert_harmless(page)


def test_full_inbox_links_to_older_messages_and_back_to_the_newest() -> None:
    assert 'href="/?before=7"' in inbox_page(message(b"", 9), message(b"", 7), has_older=True)
    assert "Newest messages" in inbox_page(message(b"", 9), is_newest=False)
    assert "no older messages" in inbox_page(is_newest=False)


def test_message_page_shows_text_html_frame_headers_source_attachments_and_events() -> None:
    raw = (
        b"From: Nordlicht <news@nordlicht.test>\r\nSubject: Hello\r\nX-Own: yes\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/plain\r\n\r\nplain words\r\n"
        b"--b\r\nContent-Type: text/html\r\n\r\n<p>rich words</p>\r\n"
        b"--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=terms.pdf\r\n\r\n%PDF\r\n"
        b"--b--\r\n"
    )
    email = message(raw)
    email.record(NOON, "webhook: delivered", "delivered")
    page = message_page(email)
    for text in ("plain words", "&lt;p&gt;rich words&lt;/p&gt;", "X-Own", "terms.pdf", "webhook: delivered", "--b--"):
        assert text in page
    assert "<p>rich words</p>" not in page
    frame = Elements(page).named("iframe")[0]
    assert (frame["sandbox"], frame["src"], frame["title"]) == ("", "/inbox/1/html", "The message as HTML")
    assert_harmless(page)


@pytest.mark.parametrize(
    "raw",
    [
        f"From: {SCRIPT} <a@b.test>\r\nTo: {SCRIPT}\r\nSubject: {SCRIPT}\r\n{SCRIPT}: x\r\n\r\n{SCRIPT}".encode(),
        f"Subject: \"'><img src=x onerror=alert(1)>{{number}}\r\nContent-Type: text/html\r\n\r\n{SCRIPT}".encode(),
        b"Subject: </title></style></pre></textarea><script>\r\nContent-Type: text/<b>\r\n\r\n</pre><script>",
        b'Content-Disposition: attachment; filename="<img src=x>"\r\nContent-Type: image/<script>\r\n\r\n<svg>',
        *MALFORMED,
    ],
)
def test_hostile_message_is_shown_as_text(raw: bytes) -> None:
    email = message(raw, 1, f"{SCRIPT}@example.test")
    email.record(NOON, f"webhook: {SCRIPT}")
    for page in (inbox_page(email), message_page(email)):
        assert_harmless(page)
        assert "\x00" not in page
        page.encode()
    assert api.as_json(email)["size"] == len(raw)


def test_huge_message_gives_a_page_of_bounded_size() -> None:
    body = b"Content-Type: text/html\r\n\r\n" + b"<p>&amp;" * 1_000_000
    page = message_page(message(b"Subject: " + b"x" * 1_000_000 + b"\r\n" + body))
    assert len(page) < 4_000_000
    assert "characters more are in the" in page
    assert len(pages.mail_document(message(body))) <= MAX_HTML_CHARS + 100


def test_policies_allow_no_script_and_no_host() -> None:
    for policy in (pages.PAGE_CSP, MAIL_CSP):
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "form-action 'none'" in policy
        assert "http" not in policy
    assert "unsafe" not in pages.PAGE_CSP
    assert MAIL_CSP.startswith("sandbox; ")


@pytest.mark.parametrize("tag", ["LINK rel=preconnect", "iframe", "Frame", "object", "embed"])
def test_html_of_a_message_cannot_make_the_browser_connect(tag: str) -> None:
    raw = f'Content-Type: text/html\r\n\r\n<{tag} href="//a.test" src="//a.test" data="//a.test"><p>hi</p>'
    elements = Elements(pages.mail_document(message(raw.encode())))
    assert [name for name, _ in elements.found] == ["meta", f"x-{tag.split(maxsplit=1)[0].lower()}", "p"]


@contextlib.asynccontextmanager
async def served_messages(folder: Path, *raws: bytes) -> AsyncIterator[aiohttp.ClientSession]:
    settings = Settings(data_dir=folder, sandbox_smtp_port=0, sandbox_http_port=0)
    async with open_sandbox(settings, clock=lambda: NOON, new_id=lambda: "id", later=lambda *_: None) as running:
        mailbox = running.provider.mailbox
        for raw in raws:
            mailbox.add(message(raw, mailbox.next_number()))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{running.http_port}") as http:
            yield http


async def read(http: aiohttp.ClientSession, path: str) -> tuple[str, Any]:
    async with http.get(path) as response:
        assert response.status == 200, path
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return (await response.read()).decode("utf-8", "replace"), response.headers


async def test_every_route_answers_for_every_malformed_message(tmp_path: Path) -> None:
    async with served_messages(tmp_path, *MALFORMED) as http:
        await read(http, "/")
        for number in range(1, len(MALFORMED) + 1):
            for path in (f"/inbox/{number}", f"/inbox/{number}/html", f"/messages/{number}/raw"):
                await read(http, path)
        async with http.get("/messages") as response:
            assert len(await response.json()) == len(MALFORMED)


async def test_pages_and_html_of_messages_have_their_own_policies(tmp_path: Path) -> None:
    raw = f"Subject: hi\r\nContent-Type: text/html\r\n\r\n{SCRIPT}<p>body</p>".encode()
    async with served_messages(tmp_path, raw) as http:
        for path, policy in (("/", pages.PAGE_CSP), ("/inbox/1", pages.PAGE_CSP), ("/inbox/1/html", MAIL_CSP)):
            text, headers = await read(http, path)
            assert headers["Content-Security-Policy"] == policy
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert ("<p>body</p>" in text) == (path == "/inbox/1/html")


async def test_cursor_leads_through_all_messages_once(tmp_path: Path) -> None:
    raws = [f"Subject: number-{n}\r\n\r\n".encode() for n in range(1, 2 * api.INBOX_PAGE_MESSAGES + 2)]
    subjects: list[str] = []
    path = "/"
    async with served_messages(tmp_path, *raws) as http:
        while path:
            text, _ = await read(http, path)
            subjects += re.findall(r"number-(\d+)", text)
            older = [str(link["href"]) for link in Elements(text).named("a") if "before" in str(link["href"])]
            path = older[0] if older else ""
        for wrong in ("x", "-1", "", "9" * 16):
            async with http.get("/", params={"before": wrong}) as response:
                assert response.status == 400
    assert subjects == [str(n) for n in range(len(raws), 0, -1)]


async def test_message_page_links_to_the_messages_beside_it(tmp_path: Path) -> None:
    async with served_messages(tmp_path, b"", b"", b"") as http:
        middle, _ = await read(http, "/inbox/2")
        newest, _ = await read(http, "/inbox/3")
    assert 'href="/inbox/3"' in middle
    assert 'href="/inbox/1"' in middle
    assert "Newer message" not in newest

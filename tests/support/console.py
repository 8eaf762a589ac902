"""Use the console as a browser without scripts does: cookies, forms, and the token in each of them."""

import contextlib
import re
from collections.abc import AsyncIterator
from html import unescape

import httpx
import msgspec

from tests.support.changes import Log, acked, event, identified, request
from tests.support.gateway import Gateway
from topics.acks import Deferred
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import EventKind
from topics.record import Millis
from topics.requests import Mailbox

TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')
HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "'><svg/onload=window.hit=1>",
    "</title></textarea></pre><script>window.hit=1</script>",
    "javascript:window.hit=1//",
    "{{ 7*7 }}{% raw %}",
    "<a href='//evil.example'>click</a>",
    "\u202e\u0000\x1b[31m<style>*{display:none}</style>",
    "<iframe src=http://evil.example></iframe><base href=http://evil.example>",
    "<meta http-equiv=refresh content=0;url=http://evil.example><form action=http://evil.example><button>",
)
"""Texts that strangers can put into what the console shows."""


class ConsoleBrowser:
    """A signed-in browser: it keeps cookies, and sends back the forms of pages."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.token = ""

    async def get(self, path: str, **more: object) -> httpx.Response:
        answer = await self.http.get(path, **more)  # type: ignore[arg-type]
        self.token = next(iter(TOKEN.findall(answer.text)), self.token)
        return answer

    async def post(self, path: str, fields: dict[str, str | list[str]], *, token: str | None = None) -> httpx.Response:
        return await self.http.post(path, data={"form_token": self.token if token is None else token, **fields})

    async def sign_in(self, key: str, wanted: str = "") -> httpx.Response:
        await self.get("/console/sign-in", params={"next": wanted} if wanted else None)
        answer = await self.post("/console/sign-in", {"key": key, "next": wanted})
        if answer.status_code == 303:
            await self.get("/console")
        return answer

    def session(self) -> str:
        return self.http.cookies.get("mailfold-console") or ""


@contextlib.asynccontextmanager
async def console_browser(served: Gateway, key: str | None = None) -> AsyncIterator[ConsoleBrowser]:
    """Open a browser, signed in with ``key`` (by default the gateway's own) unless it is empty."""
    async with httpx.AsyncClient(base_url=served.http.base_url, timeout=60) as http:
        browser = ConsoleBrowser(http)
        if key != "":
            answer = await browser.sign_in(key or served.key)
            assert answer.status_code == 303, answer.text
        yield browser


def text_of(page: str) -> str:
    """Return the text of a page."""
    without_tags = re.sub(r"<[^>]+>", " ", page)
    return re.sub(r"\s+", " ", unescape(without_tags))


def hostile_emails(now: Millis) -> list[Log]:
    """Return the changes of emails in which every text that comes from outside is hostile."""
    return [_hostile_email(number, text, now) for number, text in enumerate(HOSTILE, start=1)]


def _hostile_email(number: int, text: str, now: Millis) -> Log:
    email = msgspec.structs.replace(
        request(number, now),
        subject=text,
        recipient_name=text,
        identity=text,
        brand=text,
        recipient=f'"{text}"@example.com',
        sender=Mailbox(address=f"{text}@sender.example", name=text),
    )
    custody = msgspec.structs.replace(acked(number, now + 2), text=text, provider=text, provider_message_id=text)
    opened = msgspec.structs.replace(event(number, EventKind.OPENED, now + 4), user_agent=text)
    clicked = msgspec.structs.replace(event(number, EventKind.CLICKED, now + 90_000), url=text, user_agent=text)
    bounced = msgspec.structs.replace(
        event(number, EventKind.BOUNCED, now + 120_000), text=text, bounce_type=text, bounce_subtype=text, enhanced=text
    )
    log = Log()
    for fact in (email, _deferral(number, text, now), custody, opened, _attempt(number, text, now), clicked, bounced):
        log.fold(fact)
    return log


def _deferral(number: int, text: str, now: Millis) -> Deferred:
    return Deferred(
        email_id=identified(number),
        event_id=f"deferred:{number}",
        occurred_at=now + 1,
        recorded_at=now + 1,
        provider=text,
        code=451,
        text=text,
        next_attempt_at=now + 60_000,
    )


def _attempt(number: int, text: str, now: Millis) -> ConversionResult:
    return ConversionResult(
        email_id=identified(number),
        event_id=f"told:{number}",
        word=ConversionWord.OPEN,
        outcome=ConversionOutcome.RETRYING,
        occurred_at=now + 5,
        recorded_at=now + 5,
        destination=text,
        attempt=1,
        status=500,
        detail=text,
    )

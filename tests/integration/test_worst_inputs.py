"""Every surface gets its worst input of 1 MB; others are answered meanwhile about as fast as by an idle gateway.

The gateway is a process of its own, so that what it does with an input can't hold up those who measure. What holds it
up for longer than anybody would wait is killed with it, and the next input gets another.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import aiohttp
import aiosmtplib
import pytest

from pipeline import admin
from pipeline.content import tokens
from pipeline.gateway.server import PORT_FILE
from pipeline.gateway.smtp.listener import PORT_FILE as INBOUND_PORT_FILE
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.abuse import inputs
from tests.conftest import RING
from tests.support import templates
from tests.support.command import process
from tests.support.dialects import email_v1, extrahorizon, freshmail
from tests.support.fasttrack import message
from tests.support.inbound import EMAIL_ID, unsubscribe, verp
from tests.support.posting import KINDS, Key, key
from tests.support.seeing import until

SIZE: Final = 1_000_000
RATIO: Final = 12
"""How many times the slowest idle answer another's may take; a stall is thousands, a busy machine's noise a few."""
IDLE_REQUESTS: Final = 30
REQUESTS: Final = 10
MORE_ATTEMPTS: Final = 3
GIVEN_UP_S: Final = 15.0
"""Nobody waits longer for an answer; not what is asserted, only what ends a request that is lost."""


@dataclass(frozen=True)
class Input:
    """One request."""

    name: str
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Victim:
    """A gateway process, its two doors and a tenant's key."""

    settings: Settings
    rt: Runtime
    key: str
    url: str
    smtp_port: int
    http: aiohttp.ClientSession
    idle: float = 0.0
    """Seconds of the slowest answer to an innocent request while nobody attacks."""

    async def ask(self, one: Input) -> None:
        """Make a hostile request; whatever comes of it."""
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json", **one.headers}
        timeout = aiohttp.ClientTimeout(total=GIVEN_UP_S)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            url = self.url + one.path
            async with self.http.request(one.method, url, data=one.body, headers=headers, timeout=timeout) as answer:
                await answer.read()

    async def innocent(self, nth: int) -> float:
        """Seconds until another tenant's small message is accepted."""
        began = time.perf_counter()
        timeout = aiohttp.ClientTimeout(total=GIVEN_UP_S)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            body = [message(f"innocent-{nth}")]
            async with self.http.post(
                f"{self.url}/channels/email/batch", json=body, headers={"X-Api-Key": self.key}, timeout=timeout
            ) as answer:
                assert answer.status == 200
        return time.perf_counter() - began

    async def beside(self, attack: Callable[[], Awaitable[None]]) -> float:
        """How many times as long as an idle answer the slowest one takes during the attack and right behind it."""
        self.idle = self.idle or max([await self.innocent(nth) for nth in range(IDLE_REQUESTS)])
        attacking = asyncio.ensure_future(attack())
        slowest, nth = 0.0, 0
        while nth < REQUESTS or not attacking.done():
            slowest = max(slowest, await self.innocent(nth := nth + 1))
            if slowest >= GIVEN_UP_S:
                attacking.cancel()
                break
        await asyncio.gather(attacking, return_exceptions=True)
        return slowest / self.idle


@contextlib.asynccontextmanager
async def victim(settings: Settings) -> AsyncIterator[Victim]:
    """A gateway that also takes mail."""
    files = [settings.data_dir / name for name in (PORT_FILE, INBOUND_PORT_FILE)]
    for file in files:
        file.unlink(missing_ok=True)
    more = {"MAILFOLD_PORT": "0", "MAILFOLD_INBOUND_HOST": "127.0.0.1", "MAILFOLD_INBOUND_PORT": "0"}
    async with open_runtime(settings) as rt, process(settings, "gateway", **more), aiohttp.ClientSession() as http:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        key = await admin.add_key(rt.pool, "acme")
        await until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files), 120)
        ports = [int(file.read_text()) for file in files]
        yield Victim(settings, rt, key, f"http://127.0.0.1:{ports[0]}", ports[1], http)


Attack = Callable[[Victim], Awaitable[None]]
Prepare = Callable[[Victim], Awaitable[None]]


async def check(settings: Settings, requests: list[Input], prepare: Prepare | None = None) -> None:
    """Each request beside innocent ones; all that held them up are named at once."""
    await beside_all(settings, {one.name: partial(Victim.ask, one=one) for one in requests}, prepare)


async def beside_all(settings: Settings, attacks: Mapping[str, Attack], prepare: Prepare | None = None) -> None:
    slow: dict[str, str] = {}
    left = list(attacks.items())
    while left:
        async with victim(settings) as running:
            if prepare is not None:
                await prepare(running)
            while left:
                name, attack = left.pop(0)
                ratio = await running.beside(partial(attack, running))
                # Whatever else the machine does makes an answer late, too: only what is late each time is a fault.
                for _ in range(MORE_ATTEMPTS):
                    if ratio > RATIO:
                        ratio = min(ratio, await running.beside(partial(attack, running)))
                if ratio > RATIO:
                    slow[name] = f"{ratio:.0f} times as long as idle"
                    break  # it may still be at it: the next one meets a gateway of its own
    assert slow == {}


ZIPPED: Final = {"Content-Encoding": "gzip"}
DIALECTS: Final = {
    "Fast Track": [
        Input("subject of encoded words", "/channels/email/batch", inputs.encoded_words_subject(SIZE)),
        Input("ten long domains", "/channels/email/batch", inputs.long_domains(SIZE)),
        Input("lists in lists", "/channels/email/batch", inputs.deep_lists(SIZE)),
        Input("many small items", "/channels/email/batch", inputs.many_small_items(SIZE)),
        Input("tags that never end", "/channels/email/batch", inputs.anchors(SIZE)),
        Input("links in links", "/channels/email/batch", inputs.anchors(SIZE, "<a href=http://x>y", "links")),
        Input("comments that never end", "/channels/email/batch", inputs.anchors(SIZE, "<!--", "comments")),
        Input("1 MB of gzip", "/channels/email/batch", inputs.zipped(60 * SIZE), headers=ZIPPED),
    ],
    "/v1/Email/": [
        Input("many messages", "/v1/Email/", inputs.templated_messages(SIZE)),
        Input("lists in lists", "/v1/Email/", inputs.deep_lists(SIZE)),
        Input("long address", "/v1/Email/", inputs._json({"Messages": [email_v1(To="a@" + "x." * (SIZE // 2))]})),
    ],
    "Extra Horizon": [
        Input("recipient of spaces", "/mail/v1/", inputs.blank_recipient(SIZE)),
        Input("long string, then lists", "/mail/v1/", inputs.long_string_then_lists(SIZE)),
        Input("lists in lists", "/mail/v1/", inputs.deep_lists(SIZE)),
        Input("long subject", "/mail/v1/", inputs._json(extrahorizon(subject="=?a?q?" * (SIZE // 6)))),
    ],
    "FreshMail": [
        Input("repeated values", "/v3/messaging/emails", inputs.repeated_values(SIZE // 20)),
        Input("many headers", "/v3/messaging/emails", inputs.steering_headers(SIZE)),
        Input("lists in lists", "/v3/messaging/emails", inputs.deep_lists(SIZE)),
        Input("long subject", "/v3/messaging/emails", inputs._json(freshmail(subject="=?a?q?" * (SIZE // 6)))),
    ],
}


async def _large_template(running: Victim) -> None:
    await templates.put(running.rt, inputs.TEMPLATE, html=inputs.LARGE_TEMPLATE_HTML, subject="s")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_dialects_worst_request_holds_up_nobody(settings: Settings, dialect: str) -> None:
    await check(settings, DIALECTS[dialect], _large_template)


async def test_the_worst_template_holds_up_nobody(settings: Settings) -> None:
    async def compared(running: Victim) -> None:
        await templates.put(running.rt, "compared", text="{% if a == b %}{% endif %}" * 100, subject="s")

    drafts = (
        ("mixed names in a schema", inputs.mixed_required(SIZE)),
        ("nothing but placeholders", inputs.placeholders(SIZE)),
        ("marks that are never closed", inputs.open_marks(SIZE)),
        ("nothing but comparisons", inputs.comparisons(SIZE)),
        ("lists in lists", inputs.deep_lists(SIZE)),
    )
    puts = [Input(name, "/templates/hostile", body, "PUT") for name, body in drafts]
    rendered = Input("equal lists rendered", "/templates/compared/render", inputs.equal_lists(SIZE))
    await check(settings, [*puts, rendered], compared)


async def test_the_worst_import_of_suppressions_holds_up_nobody(settings: Settings) -> None:
    text = {"Content-Type": "text/csv"}
    bodies = {
        "one long address": b"address\n" + b"a@" + b"x" * SIZE,
        "one quoted field": b'address\n"' + b"a" * SIZE,
        "many fields": b"address\n" + b"," * SIZE,
        "many lines": b"address\n" + b"a\n" * (SIZE // 2),
        "one blank address": b"address\n" + b" " * SIZE + b"@x\n",
    }
    await check(settings, [Input(name, "/suppressions/import", body, headers=text) for name, body in bodies.items()])


@pytest.mark.parametrize("kinds", [KINDS[::2], KINDS[1::2], ("ses",)], ids=["first", "second", "ses"])
async def test_the_worst_webhook_of_every_kind_holds_up_nobody(settings: Settings, kinds: tuple[str, ...]) -> None:
    keys: dict[str, Key] = {kind: key(kind) for kind in kinds if kind != "ses"}
    keys.update({"ses": Key("arn:aws:sns:eu-west-1:1:ours", key("mailgun").make)} if "ses" in kinds else {})

    async def prepare(running: Victim) -> None:
        for kind, one in keys.items():
            row = admin.Provider(kind, "127.0.0.1", 25, kind=kind, webhook_keys=(one.entered,))
            await admin.add_provider(running.rt.pool, row, secret_ring(settings))

    requests = []
    for kind, one in keys.items():
        path = f"/webhooks/{kind}"
        if kind == "ses":
            requests.append(Input("notification of a foreign topic", path, inputs.foreign_notification(SIZE)))
            requests.append(Input("lists in lists", path, inputs.deep_lists(SIZE)))
            continue
        url = settings.public_url + path
        for name, event in (("words of bounces", inputs.bounce_words(SIZE)[1:-1]), ("lists", inputs.deep_lists(SIZE))):
            signed = one.make(event, url)
            requests.append(Input(f"{kind}: {name}", path, signed.body, headers=signed.headers))
        requests.append(Input(f"{kind}: unsigned", path, b"=&" * (SIZE // 2)))
    await check(settings, requests, prepare)


async def test_the_worst_address_of_a_page_or_a_picture_holds_up_nobody(settings: Settings) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    multipart = {"Content-Type": "multipart/form-data; boundary=" + "b" * 60}
    signer, long = Signer(RING, "track"), "A" * 60_000
    token = tokens.unsubscribe_token(signer, EMAIL_ID)
    await check(
        settings,
        [
            Input("pixel", f"/o/{long}.gif", method="GET"),
            Input("link", f"/c/{long}", method="GET"),
            Input("trap", f"/t/{long}", method="GET"),
            Input("page", f"/u/{long}", method="GET"),
            Input("unsubscribe: many fields", f"/u/{token}", b"a=b&" * (SIZE // 4), headers=form),
            Input("unsubscribe: many parts", f"/u/{token}", (b"--" + b"b" * 60 + b"\r\n") * 15_000, headers=multipart),
        ],
    )


async def test_the_worst_question_holds_up_nobody(settings: Settings) -> None:
    # A URL has fewer bytes than a body: what is longer than 60 kB is refused with its headers.
    queries = {
        "RQL in parentheses": "/mail/v1/?" + "and(" * 12_000 + ")" * 12_000,
        "RQL of one list": "/mail/v1/?in(id," + "a," * 29_000 + "a)",
        "RQL of many conditions": "/mail/v1/?" + "eq(id,a)&" * 6_500,
        "RQL that is like nothing": "/mail/v1/?like(subject," + "*a" * 29_000 + ")",
        "history cursor": "/v1/Email/?Cursor=" + "A" * 60_000,
        "history parameters": "/v1/Email/?" + "State=sent&" * 5_400,
        "suppressions cursor": "/suppressions?next=" + "A" * 60_000,
        "suppressions address": "/suppressions/" + "a@" * 30_000,
    }
    await check(settings, [Input(name, path, method="GET") for name, path in queries.items()])


async def test_the_worst_header_holds_up_nobody(settings: Settings) -> None:
    header = {"X-Long": "a" * SIZE}
    await check(settings, [Input("one header of 1 MB", "/healthz", method="GET", headers=header)])


async def test_the_worst_mail_holds_up_nobody(settings: Settings) -> None:
    mails = {
        "words and spaces": inputs.spaced_words(SIZE),
        "parameters": inputs.parameters(SIZE),
        "parameters in parts": inputs.parameters_in_parts(SIZE),
        "one header": b"Subject: " + b"=?a?q?" * (SIZE // 6) + b"\r\n\r\nx\r\n",
        "one line": b"Subject: x\r\n\r\n" + b"x" * SIZE + b"\r\n",
    }
    to = {
        "a bounce": verp(),
        "an unsubscribe": unsubscribe(),
        "forged": inputs.FORGED_VERP.format(domain="mailfold.localhost"),
    }
    attacks = {
        f"{address}: {name}": partial(_mail, to=recipient, mail=mail)
        for address, recipient in to.items()
        for name, mail in mails.items()
    }
    await beside_all(settings, attacks)


async def _mail(running: Victim, to: str, mail: bytes) -> None:
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        connection = aiosmtplib.SMTP(hostname="127.0.0.1", port=running.smtp_port, start_tls=False, timeout=GIVEN_UP_S)
        async with connection as client:
            await client.ehlo()
            await client.mail("")
            await client.rcpt(to)
            await client.data(mail)

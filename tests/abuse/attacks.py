"""The attacks on a running stack: what each sends, how often, and what it needs before."""

import asyncio
import contextlib
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from pipeline.content import tokens
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from tests.abuse import inputs
from tests.abuse.stack import FOREIGN_TOPIC_PROVIDER, HOSTILE, Running
from tests.support.fasttrack import activity, message
from topics.record import EmailId

BATCH, FRESHMAIL = "/channels/email/batch", "/v3/messaging/emails"
NEW_BRANDS: Final = 25
BROWSER: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

Once = Callable[[Running, str, int], Awaitable[Any]]
"""One stroke: the stack, what `prepare` returned, the stroke's number."""
Prepare = Callable[[Running], Awaitable[str]]


async def _nothing(_running: Running) -> str:
    return ""


@dataclass(frozen=True)
class Attack:
    """One way to be a nuisance."""

    what: str
    once: Once
    rate: float = 1.0
    """Strokes a second."""
    prepare: Prepare = _nothing
    at_once: int = 8
    """Strokes under way at most."""
    chunked: bool = False
    """The innocent's webhooks come without a length, as large ones do."""


def _posts(path: str, make: Callable[[], bytes], method: str = "POST", **headers: str) -> Once:
    # Once, and in a thread: zipping 60 MB takes half a second, for which the innocent's probe would stand still.
    make_once = functools.cache(make)

    async def once(running: Running, _prepared: str, _nth: int) -> None:
        await running.request(method, path, await asyncio.to_thread(make_once), **headers)

    return once


async def _hostile_email(running: Running) -> str:
    return await running.email_of(HOSTILE, "own")


async def _anchors(running: Running, _prepared: str, nth: int) -> None:
    await running.request("POST", BATCH, inputs.anchors(20_000, "<a ", f"anchors-{nth}"))


async def _templated(running: Running) -> str:
    draft = {"texts": {"default": {"subject": "s", "html": inputs.LARGE_TEMPLATE_HTML}}}
    return await _push(running, inputs.TEMPLATE, json.dumps(draft).encode())


async def _compared(running: Running) -> str:
    return await _push(running, "compared", inputs.comparisons(100 * 26))


async def _push(running: Running, name: str, draft: bytes) -> str:
    status, _ = await running.request("PUT", f"/templates/{name}", draft)
    while status == 202 and (await running.request("GET", f"/templates/{name}"))[0] != 200:
        await asyncio.sleep(0.2)
    return name


async def _render(running: Running, name: str, _nth: int) -> None:
    await running.request("POST", f"/templates/{name}/render", inputs.equal_lists(2_400_000))


def _mails(make: Callable[[int], bytes]) -> Once:
    async def once(running: Running, to: str, nth: int) -> None:
        await running.mail(to, make(nth))

    return once


async def _forged(running: Running) -> str:
    return inputs.FORGED_VERP.format(domain=running.settings.mail_domain)


async def _return_path(running: Running) -> str:
    signer = Signer(secret_ring(running.settings), "verp")
    return tokens.verp_address(signer, EmailId(await _hostile_email(running)), running.settings.mail_domain)


async def _pixel(running: Running) -> str:
    signer = Signer(secret_ring(running.settings), "track")
    return tokens.pixel_token(signer, EmailId(await _hostile_email(running)))


async def _open(running: Running, token: str, _nth: int) -> None:
    await running.request("GET", f"/o/{token}.gif", User_Agent=BROWSER)


async def _bounced(running: Running, _prepared: str, _nth: int) -> None:
    await running.webhook(inputs.bounce_words(40_000))


async def _trickled(running: Running, _prepared: str, _nth: int) -> None:
    async def drops() -> Any:
        for _ in range(100):
            await asyncio.sleep(0.2)
            yield b" "

    await running.request("POST", f"/webhooks/{running.settings.sandbox_provider}", drops())


async def _many_brands(running: Running, _prepared: str, nth: int) -> None:
    batch = [
        message(
            activity=activity(id=f"brand-{brand}-{nth}", brand_id=brand), email=f"b{brand}-{nth}+silent@example.test"
        )
        for brand in range(nth * NEW_BRANDS, (nth + 1) * NEW_BRANDS)
    ]
    await running.request("POST", BATCH, json.dumps(batch).encode())


def _connection(parts: list[bytes], pause: float, rest: float = 0.0) -> Once:
    """A connection that sends something after each pause, and stays for a while."""

    async def once(running: Running, _prepared: str, _nth: int) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(running.settings.host, running.settings.port)
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
                await asyncio.sleep(rest)
            finally:
                writer.close()

    return once


_GET: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"

ATTACKS: Final[dict[str, Attack]] = {
    "blank-recipient": Attack(
        "Extra Horizon: a recipient of 1,300 spaces", _posts("/mail/v1/", lambda: inputs.blank_recipient(1_300)), 0.5
    ),
    "encoded-subject": Attack(
        "Fast Track: 80 kB of encoded words that never end", _posts(BATCH, lambda: inputs.encoded_words_subject(80_000))
    ),
    "long-domains": Attack(
        "Fast Track: ten domains of 100 kB", _posts(BATCH, lambda: inputs.long_domains(1_000_000)), 2.0
    ),
    "long-string": Attack(
        "Extra Horizon: a string of 2 MB, then lists",
        _posts("/mail/v1/", lambda: inputs.long_string_then_lists(2_000_000)),
    ),
    "deep-lists": Attack(
        "Fast Track: 1 MB of lists in lists", _posts(BATCH, lambda: inputs.deep_lists(1_000_000)), 2.0
    ),
    "freshmail-values": Attack(
        "FreshMail: ten values of 20 kB, each 1,200 times",
        _posts(FRESHMAIL, lambda: inputs.repeated_values(600_000, 10)),
        0.5,
    ),
    "freshmail-headers": Attack(
        "FreshMail: 300 headers that mean something to a provider",
        _posts(FRESHMAIL, lambda: inputs.steering_headers(20_000)),
        5.0,
    ),
    "templated-batch": Attack(
        "/v1/Email/: 500 messages of a template of 240 kB",
        _posts("/v1/Email/", lambda: inputs.templated_messages(65_000)),
        prepare=_templated,
    ),
    "mixed-schema": Attack(
        "template: a schema with 2,000 required names and numbers",
        _posts("/templates/hostile", lambda: inputs.mixed_required(14_000), "PUT"),
    ),
    "placeholders": Attack(
        "template: 60 kB of placeholders", _posts("/templates/hostile", lambda: inputs.placeholders(60_000), "PUT"), 2.0
    ),
    "comparisons": Attack("template: 100 comparisons of lists of 200,000", _render, prepare=_compared),
    "unzip": Attack(
        "60 kB of gzip that are 60 MB", _posts(BATCH, lambda: inputs.zipped(60_000_000), Content_Encoding="gzip")
    ),
    "unclosed-tags": Attack("Fast Track: content of 20 kB of tags that never end", _anchors, 0.5),
    "many-brands": Attack("25 brands more of one tenant, an email each", _many_brands),
    "mail-words": Attack(
        "SMTP: forged return path, 19 kB of spaces behind words of a bounce",
        _mails(lambda _: inputs.spaced_words(19_000)),
        1.5,
        _forged,
    ),
    "mail-parameters": Attack(
        "SMTP: forged return path, two parts with 32 kB of parameters",
        _mails(lambda _: inputs.parameters_in_parts(64_000)),
        1.5,
        _forged,
    ),
    "delay-reports": Attack(
        "SMTP: one recipient repeats a report of delay", _mails(inputs.delay_report), 40.0, _return_path
    ),
    "bounce-words": Attack("webhook: 40 kB of one word of a bounce", _bounced, 2.0),
    "foreign-topic": Attack(
        "webhook: SNS of a foreign topic, a certificate's address of 200 kB",
        _posts(f"/webhooks/{FOREIGN_TOPIC_PROVIDER}", lambda: inputs.foreign_notification(200_000)),
        2.0,
    ),
    "trickled-webhooks": Attack("webhook: bodies that come by drops", _trickled, 4.0, chunked=True),
    "opens": Attack("one pixel, opened 100 times a second", _open, 100.0, _pixel, at_once=32),
    "endless-header": Attack("a header of 32 MB", _connection([_GET + b"X-A: ", *[b"a" * 1_000_000] * 32], 0.02), 0.5),
    "slow-headers": Attack(
        "headers that come by drops", _connection([_GET, *[b"X-A: a\r\n"] * 100], 0.2), 20.0, at_once=200
    ),
    "idle-connections": Attack("connections that say nothing", _connection([], 0.0, 20.0), 40.0, at_once=400),
}

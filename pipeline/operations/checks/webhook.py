"""A provider's row in; whether its webhooks reach us and are believed, and when the last one came, out."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from pipeline.admin import Provider
from pipeline.errors import NotFound
from pipeline.operations.checks.finding import Finding, note, right, wrong
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.operations.checks.webhook_signing import SIGNERS, UNSIGNED_REQUEST, SignedRequest, SigningContext
from pipeline.operations.pending import format_duration
from pipeline.runtime.database import Pool
from pipeline.runtime.http_body import read_bounded
from pipeline.settings import Settings
from pipeline.webhooks import self_check
from pipeline.webhooks.providers.registry import adapter_for
from projections.sql import SqlQueries

_GATEWAY: Final = Path(__file__).parents[2] / "gateway"
SQL: Final = SqlQueries(_GATEWAY / "webhooks.sql")
METRICS: Final = SqlQueries(_GATEWAY / "metrics.sql")
REQUEST_TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 2_000
_PASSWORD_KINDS: Final = frozenset({"postmark", "sparkpost", "mailjet", "brevo"})
_URL_VARIABLE: Final = "MAILFOLD_PUBLIC_URL"


@dataclass(frozen=True)
class CheckResponse:
    """What our public URL said."""

    status: int
    ours: bool
    """The answer proves that a gateway with our secret gave it."""
    text: str


async def check(row: Provider, pool: Pool, settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything that can be looked at from here."""
    url = f"{settings.public_url.rstrip('/')}/webhooks/{row.provider}"
    try:
        adapter_for(row.kind)
    except NotFound:
        yield note(f"{row.kind} sends no webhooks; bounces come by mail")
        return
    secret = ", with the webhook key's user and password" if row.kind in _PASSWORD_KINDS else ""
    yield note(f"its webhooks belong to {url}", f"enter exactly that at {row.kind}{secret}")
    for finding in _reachable(row.kind, url):
        yield finding
    if not row.webhook_keys:
        yield wrong("no webhook key is set: the gateway answers 503", f"mailfold providers rotate {row.provider}")
    for finding in _unreadable(row):
        yield finding
    async for finding in _round_trip(row, url, settings.secret.get_secret_value()):
        yield finding
    for finding in await _heard(row, pool):
        yield finding


def _reachable(kind: str, url: str) -> list[Finding]:
    parts = urlsplit(url)
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return [
            note("that is this machine: nobody outside reaches it", f"set {_URL_VARIABLE} to what the outside sees")
        ]
    if parts.scheme != "https" and kind in _PASSWORD_KINDS:
        return [
            wrong("that is no https: everybody on the way reads the webhook's password", "put TLS before the gateway")
        ]
    return []


def _unreadable(row: Provider) -> list[Finding]:
    """Keys that verify nothing, from before they were looked at."""
    looked_at = [(number, webhook_key_problem(row.kind, key)) for number, key in enumerate(row.webhook_keys, 1)]
    todo = f"give the right one: `mailfold providers {'add' if row.kind == 'ses' else 'rotate'} {row.provider}`"
    count = len(looked_at)
    return [wrong(f"key {number} of {count} can verify nothing: {why}", todo) for number, why in looked_at if why]


async def _round_trip(row: Provider, url: str, secret: str) -> AsyncIterator[Finding]:
    sign = SIGNERS.get(row.kind)
    if sign is None or not row.webhook_keys:
        answered = await _post(row.provider, url, UNSIGNED_REQUEST, secret)
        yield _unsigned(row, answered) if answered.ours and answered.status in (401, 403, 503) else _lost(row, answered)
        return
    for number, key in enumerate(row.webhook_keys, 1):
        if webhook_key_problem(row.kind, key):
            continue
        signed = sign(key, SigningContext(url, int(time.time()), secrets.token_hex(25)))
        yield _judged(row, f"key {number} of {len(row.webhook_keys)}", await _post(row.provider, url, signed, secret))


def _unsigned(row: Provider, answered: CheckResponse) -> Finding:
    if not row.webhook_keys:
        return note("the URL leads to a gateway of ours")
    return note(
        f"the URL leads to a gateway of ours, which refuses what is not signed ({answered.status}); "
        f"only {row.kind} can sign, so its key can't be tried from here",
        f"let {row.kind} send a test, or one email through it, and check again",
    )


def _judged(row: Provider, which: str, answered: CheckResponse) -> Finding:
    if answered.ours and answered.status == 200:
        return right(f"a webhook signed with {which} comes through the URL and is believed")
    if answered.ours and answered.status in (401, 403):
        return wrong(
            f"a webhook signed with {which} is refused ({answered.status}): {answered.text}",
            f"is the key whole, and {_URL_VARIABLE} the same at every gateway? "
            f"`mailfold providers rotate {row.provider}`",
        )
    return _lost(row, answered)


def _lost(row: Provider, answered: CheckResponse) -> Finding:
    if answered.status == 0:
        return wrong(
            f"nobody answers at the URL: {answered.text}", f"is {_URL_VARIABLE} right, does a gateway run behind it?"
        )
    if answered.status == 404:
        return wrong(
            f"what answers at the URL knows no provider {row.provider} (404)",
            "does the gateway there use this database? A new provider is known after three seconds",
        )
    if answered.status == 503:
        return wrong(f"the gateway can take nothing now (503): {answered.text}", "see /readyz and its log")
    return wrong(
        f"something else answers at the URL ({answered.status})",
        f"does {_URL_VARIABLE} lead to a gateway, with this MAILFOLD_SECRET and a clock that is right?",
    )


async def _post(provider: str, url: str, signed: SignedRequest, secret: str) -> CheckResponse:
    by = self_check.signer(secret)
    mark = self_check.request_header(by, provider, time.time_ns() // 1_000_000)
    headers = {**signed.headers, self_check.HEADER: mark}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session,
            session.post(url, data=signed.body, headers=headers, allow_redirects=False) as response,
        ):
            ours = response.headers.get(self_check.HEADER) == self_check.response_header(by, mark)
            body, _ = await read_bounded(response, MAX_ANSWER_BYTES)
            return CheckResponse(response.status, ours, _error(body))
    except TimeoutError:
        return CheckResponse(0, False, f"no answer within {REQUEST_TIMEOUT_S:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return CheckResponse(0, False, f"{type(error).__name__}: {error}")


def _error(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_ErrorResponse).error[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


class _ErrorResponse(msgspec.Struct):
    error: str = ""


async def _heard(row: Provider, pool: Pool) -> Sequence[Finding]:
    async with pool.connection() as connection:
        rows = await (await connection.execute(SQL["last_heard"], (row.provider,))).fetchall()
        unknown = dict(await (await connection.execute(METRICS["unknown_events"])).fetchall()).get(row.kind, 0)
    last = {outcome: (at, why) for outcome, at, why in rows}
    found = []
    if "taken" in last:
        found.append(right(f"the last webhook came {_ago(last['taken'][0])}"))
    else:
        found.append(note("no webhook came yet", f"let {row.kind} send a test, or one email through it"))
    if "refused" in last and ("taken" not in last or last["refused"] > last["taken"]):
        at, why = last["refused"]
        found.append(note(f"one was refused {_ago(at)}: {why}", "a stranger's, or the key is not the provider's"))
    if unknown:
        todo = f"they are kept: once a newer Mailfold knows them, `mailfold renormalize --provider {row.provider}`"
        found.append(note(f"{unknown} events of the last day are of types that we don't know", todo))
    return found


def _ago(at: datetime) -> str:
    return f"{format_duration(int((datetime.now(UTC) - at).total_seconds() * 1000))} ago ({at:%Y-%m-%d %H:%M:%S} UTC)"

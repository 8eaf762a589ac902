"""Check whether a provider's webhooks reach the gateway and pass verification, and when the last one arrived.

`mailfold providers check` calls it.
"""

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
from pipeline.runtime.http_body import read_bounded
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing, secret_ring
from pipeline.settings import Settings
from pipeline.webhooks import self_check
from pipeline.webhooks.providers.registry import adapter_for
from projections.sql import SqlQueries

_GATEWAY: Final = Path(__file__).parents[2] / "gateway"
SQL: Final = SqlQueries(_GATEWAY / "webhooks.sql")
METRICS: Final = SqlQueries(_GATEWAY / "metrics.sql")
REQUEST_TIMEOUT_S: Final = 10.0
MAX_RESPONSE_BYTES: Final = 2_000
_PASSWORD_KINDS: Final = frozenset({"postmark", "sparkpost", "mailjet", "brevo"})
_URL_VARIABLE: Final = "MAILFOLD_PUBLIC_URL"


@dataclass(frozen=True)
class CheckResponse:
    """The response of our public URL to a check."""

    status: int
    """HTTP status; 0 if there was no response."""
    ours: bool
    """Whether the response proves that it came from a gateway with our secret."""
    text: str
    """The error in the response, or the reason why there was none."""


async def check(row: Provider, pool: Pool, settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings of all checks that are possible from here."""
    url = f"{settings.public_url.rstrip('/')}/webhooks/{row.provider}"
    try:
        adapter_for(row.kind)
    except NotFound:
        yield note(f"{row.kind} sends no webhooks; bounces come by mail")
        return
    credentials = ", with the webhook key's user and password" if row.kind in _PASSWORD_KINDS else ""
    yield note(f"its webhooks belong to {url}", f"enter exactly that at {row.kind}{credentials}")
    for finding in _check_url(row.kind, url):
        yield finding
    if not row.webhook_keys:
        yield wrong("no webhook key is set: the gateway answers 503", f"mailfold providers rotate {row.provider}")
    for finding in _check_keys(row):
        yield finding
    async for finding in _check_round_trip(row, url, secret_ring(settings)):
        yield finding
    for finding in await _check_history(row, pool):
        yield finding


def _check_url(kind: str, url: str) -> list[Finding]:
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


def _check_keys(row: Provider) -> list[Finding]:
    """Return a finding for each key that cannot be parsed; it was stored before new keys were checked."""
    problems = [(number, webhook_key_problem(row.kind, key)) for number, key in enumerate(row.webhook_keys, 1)]
    todo = f"give the right one: `mailfold providers {'add' if row.kind == 'ses' else 'rotate'} {row.provider}`"
    count = len(problems)
    return [
        wrong(f"key {number} of {count} can verify nothing: {problem}", todo) for number, problem in problems if problem
    ]


async def _check_round_trip(row: Provider, url: str, ring: SecretRing) -> AsyncIterator[Finding]:
    """Post a webhook to our public URL, signed with each key if the provider's signature can be made here."""
    sign = SIGNERS.get(row.kind)
    if sign is None or not row.webhook_keys:
        response = await _post(row.provider, url, UNSIGNED_REQUEST, ring)
        is_refusal = response.ours and response.status in (401, 403, 503)
        yield _unsigned_finding(row, response) if is_refusal else _failure_finding(row, response)
        return
    for number, key in enumerate(row.webhook_keys, 1):
        if webhook_key_problem(row.kind, key):
            continue
        signed = sign(key, SigningContext(url, int(time.time()), secrets.token_hex(25)))
        response = await _post(row.provider, url, signed, ring)
        yield _signed_finding(row, f"key {number} of {len(row.webhook_keys)}", response)


def _unsigned_finding(row: Provider, response: CheckResponse) -> Finding:
    if not row.webhook_keys:
        return note("the URL leads to a gateway of ours")
    return note(
        f"the URL leads to a gateway of ours, which refuses what is not signed ({response.status}); "
        f"only {row.kind} can sign, so its key can't be tried from here",
        f"let {row.kind} send a test, or one email through it, and check again",
    )


def _signed_finding(row: Provider, key_name: str, response: CheckResponse) -> Finding:
    if response.ours and response.status == 200:
        return right(f"a webhook signed with {key_name} comes through the URL and is believed")
    if response.ours and response.status in (401, 403):
        return wrong(
            f"a webhook signed with {key_name} is refused ({response.status}): {response.text}",
            f"is the key whole, and {_URL_VARIABLE} the same at every gateway? "
            f"`mailfold providers rotate {row.provider}`",
        )
    return _failure_finding(row, response)


def _failure_finding(row: Provider, response: CheckResponse) -> Finding:
    """Return why the check did not reach the gateway, or was not handled by it."""
    if response.status == 0:
        return wrong(
            f"nobody answers at the URL: {response.text}", f"is {_URL_VARIABLE} right, does a gateway run behind it?"
        )
    if response.status == 404:
        return wrong(
            f"what answers at the URL knows no provider {row.provider} (404)",
            "does the gateway there use this database? A new provider is known after three seconds",
        )
    if response.status == 503:
        return wrong(f"the gateway can take nothing now (503): {response.text}", "see /readyz and its log")
    return wrong(
        f"something else answers at the URL ({response.status})",
        f"does {_URL_VARIABLE} lead to a gateway, with this MAILFOLD_SECRET and a clock that is right?",
    )


async def _post(provider: str, url: str, signed: SignedRequest, ring: SecretRing) -> CheckResponse:
    signer = self_check.signer(ring)
    check_header = self_check.request_header(signer, provider, time.time_ns() // 1_000_000)
    headers = {**signed.headers, self_check.HEADER: check_header}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session,
            session.post(url, data=signed.body, headers=headers, allow_redirects=False) as response,
        ):
            ours = response.headers.get(self_check.HEADER) == self_check.response_header(signer, check_header)
            body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
            return CheckResponse(response.status, ours, _error_text(body))
    except TimeoutError:
        return CheckResponse(0, False, f"no answer within {REQUEST_TIMEOUT_S:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return CheckResponse(0, False, f"{type(error).__name__}: {error}")


def _error_text(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_ErrorResponse).error[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


class _ErrorResponse(msgspec.Struct):
    """The body of the gateway's error responses."""

    error: str = ""


async def _check_history(row: Provider, pool: Pool) -> Sequence[Finding]:
    """Return findings about the last accepted and refused webhooks, and about events of unknown types."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(SQL["last_heard"], (row.provider,))).fetchall()
        unknown = dict(await (await connection.execute(METRICS["unknown_events"])).fetchall()).get(row.kind, 0)
    last = {outcome: (at, reason) for outcome, at, reason in rows}
    findings = []
    if "taken" in last:
        findings.append(right(f"the last webhook came {_ago(last['taken'][0])}"))
    else:
        findings.append(note("no webhook came yet", f"let {row.kind} send a test, or one email through it"))
    if "refused" in last and ("taken" not in last or last["refused"] > last["taken"]):
        at, reason = last["refused"]
        findings.append(note(f"one was refused {_ago(at)}: {reason}", "a stranger's, or the key is not the provider's"))
    if unknown:
        todo = f"they are kept: once a newer Mailfold knows them, `mailfold renormalize --provider {row.provider}`"
        findings.append(note(f"{unknown} events of the last day are of types that we don't know", todo))
    return findings


def _ago(at: datetime) -> str:
    return f"{format_duration(int((datetime.now(UTC) - at).total_seconds() * 1000))} ago ({at:%Y-%m-%d %H:%M:%S} UTC)"

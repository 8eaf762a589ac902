"""What all gateways record of webhooks in Postgres: used signature tokens, and each provider's last webhook.

The webhook routes write both; `mailfold providers check` reads the second.
"""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from pipeline.webhooks.signatures import MAX_AHEAD_S
from projections.sql import SqlQueries
from topics.record import Millis

SQL: Final = SqlQueries(Path(__file__).with_name("webhooks.sql"))
RECORD_INTERVAL_S: Final = 5.0
"""Seconds between two writes about the same provider and outcome, however many webhooks it sends."""
TOKEN_SWEEP_INTERVAL_S: Final = 10.0
"""Seconds between two deletions of expired tokens."""
log = get_logger(__name__)


class WebhookTokenClaims:
    """Tokens of signatures that cover a token instead of the body; each is valid for the first body it came with."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._swept = -TOKEN_SWEEP_INTERVAL_S

    async def claim(self, provider: str, token: str, digest: bytes, now: Millis, max_age_s: int) -> None:
        """Claim a token for the body with this digest, until it expires; a repeat of the same body succeeds.

        ``max_age_s`` is the accepted age of a webhook in seconds. Raise InvalidSignatureError if the token came with
        another body.
        """
        values = {
            "provider": provider,
            "token": hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(),
            "digest": digest,
            # The signer's clock may be ahead of ours.
            "expires_at": now + (max_age_s + MAX_AHEAD_S) * 1000,
        }
        async with self._pool.connection() as connection:
            async with connection.pipeline():
                await connection.execute(SQL["claim_token"], values)
                cursor = await connection.execute(SQL["claimed"], values)
            row = await cursor.fetchone()
            if time.monotonic() - self._swept >= TOKEN_SWEEP_INTERVAL_S:
                self._swept = time.monotonic()
                await connection.execute(SQL["forget_tokens"], (now,))
        if row is None or bytes(row[0]) != digest:
            raise InvalidSignatureError("the signature's token was used for another body")


class WebhookActivity:
    """The times of each provider's last accepted and last refused webhook, written in the background."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._recorded_at: dict[tuple[str, str], float] = {}
        self._writes: set[asyncio.Task[None]] = set()

    def record(self, provider: str, outcome: str, now: Millis, why: str = "") -> None:
        """Record a webhook's outcome, ``taken`` or ``refused``, unless the same was recorded a moment ago."""
        if time.monotonic() - self._recorded_at.get((provider, outcome), -RECORD_INTERVAL_S) < RECORD_INTERVAL_S:
            return
        self._recorded_at[provider, outcome] = time.monotonic()
        write = asyncio.create_task(self._write(provider, outcome, now, why[:200]))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, provider: str, outcome: str, now: Millis, why: str) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute(SQL["heard"], (provider, outcome, now, why))
        except DATABASE_UNAVAILABLE_ERRORS as error:
            log.info("last webhook not recorded", provider=provider, error=type(error).__name__)

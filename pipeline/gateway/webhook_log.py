"""What the gateways remember of webhooks in Postgres: tokens that were used, and who was heard last and when."""

import asyncio
import hashlib
import logging
import time
from pathlib import Path
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from pipeline.webhooks.signatures import MAX_AHEAD_S
from projections.sql import SqlQueries
from topics.record import Millis

SQL: Final = SqlQueries(Path(__file__).with_name("webhooks.sql"))
RECORD_INTERVAL_S: Final = 5.0
"""However many webhooks come, each provider's last one is written this seldom."""
TOKEN_SWEEP_INTERVAL_S: Final = 10.0
log = logging.getLogger(__name__)


class WebhookTokenClaims:
    """Where a signature covers a token instead of the body: a token is good for the body that it came with first."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._swept = -TOKEN_SWEEP_INTERVAL_S

    async def claim(self, provider: str, token: str, digest: bytes, now: Millis, fresh_s: int) -> None:
        """Raises Forged where the token came with another body. The same one again is a repeat, and welcome."""
        values = {
            "provider": provider,
            "token": hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(),
            "digest": digest,
            # A signer's clock may be ahead of ours.
            "expires_at": now + (fresh_s + MAX_AHEAD_S) * 1000,
        }
        async with self._pool.connection() as connection:
            async with connection.pipeline():
                await connection.execute(SQL["claim_token"], values)
                found = await connection.execute(SQL["claimed"], values)
            row = await found.fetchone()
            if time.monotonic() - self._swept >= TOKEN_SWEEP_INTERVAL_S:
                self._swept = time.monotonic()
                await connection.execute(SQL["forget_tokens"], (now,))
        if row is None or bytes(row[0]) != digest:
            raise InvalidSignatureError("the signature's token was used for another body")


class WebhookActivity:
    """Notes which provider was last heard, and last refused, without anybody waiting for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._noted: dict[tuple[str, str], float] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def record(self, provider: str, outcome: str, now: Millis, why: str = "") -> None:
        """``taken`` or ``refused``; `mailfold providers check` shows it."""
        if time.monotonic() - self._noted.get((provider, outcome), -RECORD_INTERVAL_S) < RECORD_INTERVAL_S:
            return
        self._noted[provider, outcome] = time.monotonic()
        writing = asyncio.create_task(self._write(provider, outcome, now, why[:200]))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _write(self, provider: str, outcome: str, now: Millis, why: str) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute(SQL["heard"], (provider, outcome, now, why))
        except DATABASE_UNAVAILABLE_ERRORS as error:
            log.info("when %s was heard is not noted: %s", provider, type(error).__name__)

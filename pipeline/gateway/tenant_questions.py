"""Limit how many questions of the history API one tenant has at once, so that others' are answered.

The routes of `/api/v1` call it. Each gateway counts for itself.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

from pipeline.gateway.problems import HttpProblem

QUESTIONS_AT_ONCE: Final = 2
"""Questions of one tenant in Postgres at once: fewer than the history's connections."""
TURN_WAIT_S: Final = 1.0
"""Seconds for which a question waits for the tenant's earlier ones before it is refused."""
MAX_LONG_POLLS: Final = 20
"""Clients of one tenant that wait for changes at once."""
RETRY_LATER: Final = {"Retry-After": "1"}


class TenantQuestions:
    """Counts one gateway's questions and long polls of each tenant."""

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._long_polls: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, wait_s: float | None = TURN_WAIT_S) -> AsyncIterator[None]:
        """Hold one of the tenant's turns for the block. Raise HttpProblem 429 if none is free within ``wait_s``."""
        turns = self._turns.setdefault(tenant, asyncio.Semaphore(QUESTIONS_AT_ONCE))
        try:
            async with asyncio.timeout(wait_s):
                await turns.acquire()
        except TimeoutError:
            error = f"{QUESTIONS_AT_ONCE} questions of this tenant are being answered; send it again"
            raise HttpProblem(429, error, "", RETRY_LATER) from None
        try:
            yield
        finally:
            turns.release()

    @contextlib.contextmanager
    def long_poll(self, tenant: str) -> Iterator[None]:
        """Count a client that waits during the block. Raise HttpProblem 429 if too many of the tenant do."""
        if self._long_polls[tenant] >= MAX_LONG_POLLS:
            error = f"{MAX_LONG_POLLS} clients of this tenant wait for changes"
            raise HttpProblem(429, error, "wait", RETRY_LATER)
        self._long_polls[tenant] += 1
        try:
            yield
        finally:
            self._long_polls[tenant] -= 1

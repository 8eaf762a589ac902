"""Tables of one test's own, as migrations make them."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from projections.migrate import migrate


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        await migrate(opened)
        yield opened

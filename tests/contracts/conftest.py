"""Fixtures for contract tests: a connection to a database of their own, with all migrations applied."""

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

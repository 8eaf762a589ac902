"""Fixtures for contract tests: a connection to a migrated database of their own."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened

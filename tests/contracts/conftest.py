"""Fixtures for contract tests: a connection to a migrated database of their own, and a pool."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.settings import Settings


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_database(Settings(database_url=SecretStr(database_url)), size=2) as opened:
        yield opened

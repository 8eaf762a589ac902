"""The roles behind a real PgBouncer in transaction mode, with a direct URL for what needs a session."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.operations.rebuild import rebuild
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.postgres import database
from pipeline.runtime.postgres.database import open_database
from pipeline.settings import Settings
from tests.support.all_roles import all_roles
from tests.support.dispatching import FAST
from tests.support.gateway import Gateway
from tests.support.pgbouncer import pgbouncer, requires_pgbouncer
from tests.support.seeing import until

pytestmark = requires_pgbouncer

CONNECT_QUERY = (
    "set statement_timeout = '30s'; set lock_timeout = '10s'; set idle_in_transaction_session_timeout = '10s'"
)


@pytest.fixture
def folder(server_folder: Path) -> Path:
    return server_folder / secrets.token_hex(4)


@pytest.fixture
async def pooled(settings: Settings, folder: Path) -> AsyncIterator[Settings]:
    direct = settings.database_url.get_secret_value()
    async with pgbouncer(direct, folder, CONNECT_QUERY) as url:
        yield settings.model_copy(
            update={"database_url": SecretStr(url), "database_session_url": SecretStr(direct), **FAST}
        )


async def lists(served: Gateway, emails: int) -> bool:
    listing = await served.http.get("/v1/Email/", headers={"X-Api-Key": served.key})
    return len(listing.json()["Emails"]) == emails


async def test_every_role_works_behind_a_transaction_pooler(pooled: Settings) -> None:
    async with all_roles(pooled) as roles:
        # More than the five executions after which psycopg would prepare a statement.
        for number in range(1, 9):
            await roles.check(number)
        await until(lambda: lists(roles.served, 8))
    async with open_runtime(pooled) as rt:
        result = await rebuild(rt, lambda _read, _total: None)
    assert (result.swapped, list(result.differences)) == (True, [])


async def test_missing_time_outs_behind_a_pooler_are_logged(
    settings: Settings, pooled: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[dict[str, Any]] = []
    monkeypatch.setattr(database.log, "warning", lambda _event, **fields: warnings.append(fields))
    async with open_database(pooled, size=1):
        assert warnings == []
    async with (
        pgbouncer(settings.database_url.get_secret_value(), folder / "bare") as url,
        open_database(pooled.model_copy(update={"database_url": SecretStr(url)}), size=1),
    ):
        [warning] = warnings
    assert warning["missing"] == ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]


async def test_concurrent_transactions_keep_their_local_state(pooled: Settings) -> None:
    async with open_database(pooled, size=8) as pool:

        async def use(number: int) -> None:
            async with pool.connection() as connection, connection.transaction():
                await connection.execute("select set_config('search_path', %s, true)", (f"s{number}",))
                await asyncio.sleep(0.01)
                row = await (await connection.execute("show search_path")).fetchone()
                assert row == (f"s{number}",)

        await asyncio.gather(*(use(number) for number in range(40)))

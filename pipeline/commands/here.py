"""The environment in; the settings that a command at the same machine as `mailfold up` works with, out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from pipeline.database import Pool, database
from pipeline.embedded import postgres
from pipeline.embedded.home import Home, is_taken
from pipeline.errors import BadSettings
from pipeline.settings import Settings, load

T = TypeVar("T")
SECRET_LENGTH: Final = 32

console = Console(soft_wrap=True, highlight=False)


def settings() -> Settings:
    """The environment's settings; what it leaves open is taken from the stack that runs in the data folder.

    Raises BadSettings where neither says which Postgres is meant.
    """
    given = load()
    home = Home(given.data_dir)
    update: dict[str, Any] = {"data_dir": home.root}
    if not given.database_url.get_secret_value():
        update["database_url"] = SecretStr(_database(home))
    if not given.kafka_bootstrap and (port := home.ports().get("kafka")):
        update["kafka_bootstrap"] = f"127.0.0.1:{port}"
    if not given.secret.get_secret_value():
        update["secret"] = SecretStr(home.read_secret("secret"))
    return given.model_copy(update=update)


def with_pool(work: Callable[[Pool, Settings], Awaitable[T]]) -> T:
    """Run ``work`` on the database that :func:`settings` names."""

    async def main() -> T:
        found = settings()
        async with database(found, size=1) as pool:
            return await work(pool, found)

    return asyncio.run(main())


def secret_of(found: Settings) -> str:
    """The secret that seals credentials. Raises BadSettings for none or a short one."""
    secret = found.secret.get_secret_value()
    if len(secret) < SECRET_LENGTH:
        raise BadSettings(f"MAILFOLD_SECRET: at least {SECRET_LENGTH} characters; the same for every role")
    return secret


def table(*columns: str) -> Table:
    """An empty listing."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _database(home: Home) -> str:
    port = home.ports().get("postgres")
    if port is None or not is_taken("127.0.0.1", port):
        raise BadSettings(f"DATABASE_URL: missing, and no stack runs in {home.root}; set it, or start `mailfold up`")
    return postgres.url(home.root / "postgres", port)

"""Real servers for every test: the ones the environment names, else Docker's, else embedded ones.

Each test that asks for `settings` gets its own topics and its own database on them.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.settings import Settings
from tests.support import servers, skips
from tests.support.caught_up import CaughtUp
from topics.registry import TOPICS

SECRET = "a-secret-for-tests-of-at-least-32-characters"
RING = SecretRing.of(SECRET)


def pytest_configure(config: pytest.Config) -> None:
    skips.pytest_configure(config)
    # Ended from outside, pytest would end at once, and the servers' folder would stay.
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only CI has time for; a test that is named by its node id runs everywhere."""
    if os.environ.get("CI") or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("ci")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    with servers.folder() as folder:
        yield folder


@pytest.fixture
def stack_folder(server_folder: Path) -> Iterator[Path]:
    """A path as people have them, with spaces and longer than a Unix socket's may be, for a stack of its own.

    Not `tmp_path`: run by root, Postgres is another user, and each pytest that starts shuts others out of those.
    """
    top = server_folder / secrets.token_hex(4)
    yield top / "my mail" / ("a folder with a long name " * 4).strip() / ".mailfold"
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(server_folder: Path) -> Iterator[str]:
    with servers.kafka_server(server_folder) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def postgres_url(server_folder: Path) -> Iterator[str]:
    with servers.postgres_server(server_folder) as url:
        yield url


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextlib.contextmanager
def own_database(url: str, template: str = "template1") -> Iterator[str]:
    """Create a database, yield its name, and drop it."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as admin:
        # names of our own making
        admin.execute(f"create database {name} template {template}")  # type: ignore[arg-type,unused-ignore]
        yield name
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type,unused-ignore]


@pytest.fixture(scope="session")
def migrated_database(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database, of which each test gets a copy."""
    with own_database(postgres_url) as name:
        asyncio.run(migrate_database(Settings(database_url=SecretStr(with_database(postgres_url, name)))))
        yield name


@pytest.fixture
def database_url(postgres_url: str, migrated_database: str) -> Iterator[str]:
    """A migrated database of this test's own; dropped after it."""
    with own_database(postgres_url, migrated_database) as name:
        yield with_database(postgres_url, name)


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A database of this test's own that was never migrated; dropped after it."""
    with own_database(postgres_url) as name:
        yield with_database(postgres_url, name)


@pytest.fixture
async def settings(kafka_bootstrap: str, database_url: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings with fresh topics (two partitions) and a fresh database."""
    made = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=SecretStr(database_url),
        secret=SecretStr(SECRET),
        data_dir=tmp_path,
        topic_prefix=f"t{secrets.token_hex(6)}-",
        partitions=2,
        allow_private_destinations=True,
        ops_host="",
    )
    await topic_admin.create(made)
    yield made
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(10):
            await admin.start()
            await admin.delete_topics([made.topic(topic.name) for topic in TOPICS])
    await admin.close()


@pytest.fixture
def caught_up(settings: Settings) -> CaughtUp:
    """Asserts that a role has read to the end of its topics."""
    return CaughtUp(settings)

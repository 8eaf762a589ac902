"""Real servers for every test: the ones the environment names, else Docker's, else embedded ones.

Each test that asks for `settings` gets its own topics and its own database on them.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from pipeline import cluster
from pipeline.embedded import kafka as embedded_kafka
from pipeline.embedded import postgres as embedded_postgres
from pipeline.settings import Settings
from topics.registry import TOPICS

SECRET = "a-secret-for-tests-of-at-least-32-characters"


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mailfold-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(server_folder: Path) -> Iterator[str]:
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        yield given
        return
    port = embedded_kafka.free_port()
    broker = embedded_kafka.start(server_folder / "kafka", port)
    yield f"127.0.0.1:{port}"
    embedded_kafka.stop(broker)


@pytest.fixture(scope="session")
def postgres_url(server_folder: Path) -> Iterator[str]:
    if given := os.environ.get("DATABASE_URL"):
        yield given
        return
    server, url = embedded_postgres.start(server_folder / "postgres", embedded_kafka.free_port())
    yield url
    embedded_postgres.stop(server)


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A database of this test's own; dropped after it."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type,unused-ignore]  # a name of our own making
        yield with_database(postgres_url, name)
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type,unused-ignore]


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
    )
    await cluster.create(made)
    yield made
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(10):
            await admin.start()
            await admin.delete_topics([made.topic(topic.name) for topic in TOPICS])
    await admin.close()

"""Fixtures of the fuzz tests: one gateway with its own topics and tables."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from tests.conftest import SECRET, own_database, with_database
from tests.support.served import Served, served
from topics.registry import TOPICS


@pytest.fixture(scope="session")
def cases() -> int:
    """Return the number of cases for each dialect; `make fuzz` sets a larger one."""
    return int(os.environ.get("FUZZ_CASES", "300"))


@pytest.fixture(scope="session")
def gateway(
    kafka_bootstrap: str, postgres_url: str, migrated_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with own_database(postgres_url, migrated_database) as name:
        settings = _settings(kafka_bootstrap, with_database(postgres_url, name), tmp_path_factory.mktemp("gateway"))
        asyncio.run(topic_admin.create(settings))
        try:
            with served(settings) as running:
                yield running
        finally:
            asyncio.run(_delete_topics(settings))


def _settings(kafka_bootstrap: str, database_url: str, folder: Path) -> Settings:
    return Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=SecretStr(database_url),
        secret=SecretStr(SECRET),
        data_dir=folder,
        topic_prefix=f"t{secrets.token_hex(6)}-",
        partitions=2,
    )


async def _delete_topics(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    await admin.delete_topics([settings.topic(topic.name) for topic in TOPICS])
    await admin.close()

"""Build every Kafka client: producers, consumers and admin clients, with the security that the settings ask for.

Nothing else may build one (tests/architecture/test_kafka_clients.py); Faust builds its own with the same options.
"""

import asyncio
import contextlib
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka_security import security_options
from pipeline.settings import Settings

ADMIN_TIMEOUT_MS: Final = 15_000
"""Milliseconds until an admin client gives up a request."""
START_TIMEOUT_S: Final = 30.0
"""Seconds until a client must be connected; an idempotent producer would try for ever."""


def create_producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """Return an idempotent producer that waits for all in-sync replicas. Raise InvalidSettings."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        **security_options(settings),
        **options,
    )


def create_consumer(settings: Settings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """Return a consumer that reads committed records only, from the beginning, and never commits offsets by itself.

    In a group it is a static member where KAFKA_GROUP_INSTANCE_ID names it. Raise InvalidSettings.
    """
    if "group_id" in options:
        options["group_instance_id"] = settings.kafka_group_instance_id or None
    return AIOKafkaConsumer(
        *[settings.topic(name) for name in topics],
        bootstrap_servers=settings.kafka_bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **security_options(settings),
        **options,
    )


def create_admin(settings: Settings) -> AIOKafkaAdminClient:
    """Return an admin client. Raise InvalidSettings."""
    return AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap,
        request_timeout_ms=ADMIN_TIMEOUT_MS,
        **security_options(settings),
    )


async def start_client(
    client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient,
    settings: Settings,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Connect a client within ``timeout_s``; close it and raise LogUnavailable where that fails."""
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        with contextlib.suppress(KafkaError, OSError):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
        reason = str(error) or f"no answer within {timeout_s:g} s"
        raise LogUnavailable(
            f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap} does not answer: {reason}"
        ) from error

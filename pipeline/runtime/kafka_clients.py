"""Build every Kafka client: producers, consumers and admin clients, with the security that the settings ask for.

Nothing else may build one (tests/architecture/test_kafka_clients.py); Faust builds its own with the same options.
"""

import asyncio
import contextlib
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka_security import security_options
from pipeline.settings import Settings

ADMIN_TIMEOUT_MS: Final = 15_000
"""Milliseconds until an admin client gives up a request."""
CONSUMER_REQUEST_TIMEOUT_MS: Final = 10_000
"""Milliseconds until a consumer gives up a request, and asks which broker leads the partition now. A frozen broker is
replaced after about as long (`broker.session.timeout.ms`, 9 s), and the largest fetch must fit in."""
MIN_PRODUCER_REQUEST_TIMEOUT_S: Final = 2.0
START_TIMEOUT_S: Final = 30.0
"""Seconds until a client must be connected; an idempotent producer would try for ever."""


def producer_request_timeout_ms(settings: Settings) -> int:
    """Return the milliseconds until a producer gives up a request and asks which broker leads the partition now.

    It is half of the append time-out, so that a caller's record can still reach another leader; on a slow network both
    are to be raised together. A request that is given up is repeated with its number, and the broker keeps one.
    """
    return int(1000 * max(MIN_PRODUCER_REQUEST_TIMEOUT_S, settings.append_timeout / 2))


def create_producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """Return an idempotent producer that waits for all in-sync replicas. Raise InvalidSettings."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=producer_request_timeout_ms(settings),
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
        request_timeout_ms=CONSUMER_REQUEST_TIMEOUT_MS,
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


async def get_records(
    consumer: AIOKafkaConsumer, *partitions: TopicPartition, **options: Any
) -> dict[TopicPartition, list[Any]]:
    """Return fetched records, as the consumer's `getmany` does with the same ``options``.

    Raise KafkaError where the consumer's task that fetches has ended after an error: `getmany` would return nothing for
    ever. Only a new consumer helps.
    """
    if consumer._fetcher._fetch_task.done():
        raise KafkaError("the consumer stopped fetching after an error")
    records: dict[TopicPartition, list[Any]] = await consumer.getmany(*partitions, **options)
    return records

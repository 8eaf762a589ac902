"""Build every Kafka client: producers, consumers and admin clients, with the security that the settings ask for.

Nothing else may build one (tests/architecture/test_kafka_clients.py); Faust builds its own with the same options.
"""

import asyncio
import contextlib
import itertools
import math
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, ProducerClosed

from pipeline.errors import ClientRefused, LogUnavailable
from pipeline.runtime.kafka.diagnosis import explain_failure
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.kafka.security import security_options
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings

CONNECT_TIMEOUT_MS: Final = 2_000
"""Milliseconds for each step of connecting to a broker. A frozen broker's machine accepts connections, and then nobody
answers: what a client waits here adds to the time that the cluster needs to replace the broker."""
ADMIN_TIMEOUT_MS: Final = 15_000
"""Milliseconds until an admin client gives up a request."""
CONSUMER_REQUEST_TIMEOUT_MS: Final = 10_000
"""Milliseconds until a consumer gives up a request, and asks which broker leads the partition now. A frozen broker is
replaced after about as long (`broker.session.timeout.ms`, 9 s), and the largest fetch must fit in."""
MIN_PRODUCER_REQUEST_TIMEOUT_S: Final = 2.0
START_TIMEOUT_S: Final = 30.0
"""Seconds until a client must be connected; an idempotent producer would try for ever."""
DISCONNECT_TIMEOUT_S: Final = 1.0
"""Seconds for a producer that was given up to close its connections."""


def producer_request_timeout_ms(settings: Settings) -> int:
    """Return the milliseconds until a producer gives up a request and asks which broker leads the partition now.

    That is the append time-out, after which no caller waits for it any more; on a slow network, raise that setting. The
    request is repeated with its number, so that the broker keeps one.
    """
    return int(1000 * max(MIN_PRODUCER_REQUEST_TIMEOUT_S, settings.append_timeout))


def limit_connecting(client: Any, request_timeout_ms: int) -> None:
    """Give up each step of connecting after `CONNECT_TIMEOUT_MS`, requests to connected brokers later.

    ``client``: the network client inside a producer, consumer or admin client. aiokafka has one time-out for both.
    """
    get_connection = client._get_conn

    async def get_patient_connection(*node: Any, **options: Any) -> Any:
        connection = await get_connection(*node, **options)
        if connection is not None:
            connection._request_timeout = request_timeout_ms / 1000
        return connection

    client._request_timeout_ms = CONNECT_TIMEOUT_MS
    client._get_conn = get_patient_connection


def end_fetches_first(consumer: AIOKafkaConsumer) -> None:
    """Let the consumer's `stop` end its fetches before it does the rest.

    aiokafka cancels and then awaits those that wait to try again, as they do while a broker is away (`Fetcher.close`).
    So its `stop` raises CancelledError, and whoever called it ends like a task that was cancelled, without a word.
    """
    stop = consumer.stop

    async def stop_after_fetches() -> None:
        if (fetcher := consumer._fetcher) is not None:
            await cancel_tasks([fetcher._fetch_task])
            await cancel_tasks(fetcher._pending_tasks)
            fetcher._pending_tasks.clear()
        await stop()

    consumer.stop = stop_after_fetches


def create_producer(settings: Settings, compression: LogCompression | None = None, **options: Any) -> AIOKafkaProducer:
    """Return an idempotent producer that waits for all in-sync replicas. Raise InvalidSettings.

    Without ``compression`` it never compresses.
    """
    timeout_ms = producer_request_timeout_ms(settings)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=timeout_ms,
        **security_options(settings),
        **options,
    )
    limit_connecting(producer.client, timeout_ms)
    # aiokafka never expires a batch that it has sent; one whose partition has no leader must not leave a gap.
    producer._message_accumulator._batch_ttl = math.inf
    if compression is not None:
        compression.apply_to(producer)
    return producer


def create_consumer(settings: Settings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """Return a consumer that reads committed records only, from the beginning, and never commits offsets by itself.

    In a group it is a static member where KAFKA_GROUP_INSTANCE_ID names it. Raise InvalidSettings.
    """
    if "group_id" in options:
        options["group_instance_id"] = settings.kafka_group_instance_id or None
    consumer = AIOKafkaConsumer(
        *[settings.topic(name) for name in topics],
        bootstrap_servers=settings.kafka_bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=CONSUMER_REQUEST_TIMEOUT_MS,
        **security_options(settings),
        **options,
    )
    limit_connecting(consumer._client, CONSUMER_REQUEST_TIMEOUT_MS)
    end_fetches_first(consumer)
    return consumer


def create_admin(settings: Settings) -> AIOKafkaAdminClient:
    """Return an admin client. Raise InvalidSettings."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap,
        request_timeout_ms=ADMIN_TIMEOUT_MS,
        **security_options(settings),
    )
    limit_connecting(admin._client, ADMIN_TIMEOUT_MS)
    return admin


async def start_client(
    client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient,
    settings: Settings,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Connect a client within ``timeout_s``. Where that fails, close it and raise LogUnavailable, which says why.

    It is a ClientRefused where waiting does not help.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
    except (KafkaError, OSError, ValueError) as error:  # a SCRAM server's wrong signature is a ValueError
        await _close(client)
        place = f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap}"
        if reason := await explain_failure(settings, error):
            raise (ClientRefused if reason.is_refusal else LogUnavailable)(f"{place}: {reason.text}") from error
        text = str(error) or f"not connected within {timeout_s:g} s"
        raise LogUnavailable(f"{place} does not answer: {text}") from error
    except BaseException:
        await _close(client)  # cancelled: its tasks and sockets would stay
        raise


async def _close(client: AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient) -> None:
    with contextlib.suppress(Exception):
        await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


async def close_producer(producer: AIOKafkaProducer, flush_timeout_s: float, requests_timeout_s: float = 0.0) -> None:
    """Flush and close a producer; fail what is not confirmed within ``flush_timeout_s``.

    ``requests_timeout_s``: the seconds in which requests that are under way then must end; by default none.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(flush_timeout_s):
            await producer.stop()
            return
    sender = producer._sender.sender_task
    if sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait([sender], timeout=requests_timeout_s)
    _fail_unconfirmed(producer._message_accumulator)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
            await producer.client.close()


def _fail_unconfirmed(accumulator: Any) -> None:
    """Fail all batches, and retrieve the error of the future that each has of its own, which asyncio would log."""
    batches = [*itertools.chain.from_iterable(accumulator._batches.values()), *accumulator._pending_batches]
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        if batch._drain_waiter.done() and not batch._drain_waiter.cancelled():
            batch._drain_waiter.exception()


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

"""Time-outs of Kafka clients: connecting is given up early, requests later."""

import asyncio
import functools
import gc
import math
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerClosed

from pipeline.runtime.kafka import clients as kafka_clients
from pipeline.runtime.kafka.clients import (
    CONNECT_TIMEOUT_MS,
    CONSUMER_REQUEST_TIMEOUT_MS,
    close_producer,
    create_consumer,
    create_producer,
    get_records,
    limit_connecting,
    producer_request_timeout_ms,
    start_client,
)
from pipeline.settings import Settings

SETTINGS = Settings(kafka_bootstrap="127.0.0.1:1")


class FakeClient:
    """aiokafka's network client as far as its connections go."""

    def __init__(self, connection: Any) -> None:
        self._request_timeout_ms = 40_000
        self._connection = connection

    async def _get_conn(self, _node_id: int, *, group: int = 0) -> Any:
        return self._connection


async def test_step_of_connecting_is_given_up_earlier_than_a_request() -> None:
    connection = SimpleNamespace(_request_timeout=2.0)
    client = FakeClient(connection)
    limit_connecting(client, 10_000)
    assert client._request_timeout_ms == CONNECT_TIMEOUT_MS
    assert await client._get_conn(1, group=1) is connection
    assert connection._request_timeout == 10.0


async def test_broker_that_does_not_answer_gives_no_connection() -> None:
    client = FakeClient(None)
    limit_connecting(client, 10_000)
    assert await client._get_conn(1) is None


@pytest.mark.parametrize(("append_timeout", "expected_ms"), [(5.0, 5_000), (0.3, 2_000), (30.0, 30_000)])
def test_producers_request_follows_the_append_timeout(append_timeout: float, expected_ms: int) -> None:
    settings = SETTINGS.model_copy(update={"append_timeout": append_timeout})
    assert producer_request_timeout_ms(settings) == expected_ms


async def test_every_client_has_both_timeouts() -> None:
    producer, consumer = create_producer(SETTINGS), create_consumer(SETTINGS)
    admin = kafka_clients.create_admin(SETTINGS)
    clients = (producer.client, consumer._client, admin._client)
    assert {client._request_timeout_ms for client in clients} == {CONNECT_TIMEOUT_MS}
    assert producer._sender._request_timeout_ms == producer_request_timeout_ms(SETTINGS)
    assert consumer._request_timeout_ms == CONSUMER_REQUEST_TIMEOUT_MS
    await producer.stop()
    await consumer.stop()
    await admin.close()


async def test_batch_without_a_leader_never_expires_in_any_producer() -> None:
    """Its number would be missing, and the brokers would refuse every later batch of the partition."""
    option_sets: list[dict[str, Any]] = [{}, {"transactional_id": "mailfold-0"}]
    for options in option_sets:
        producer = create_producer(SETTINGS, **options)
        assert producer._message_accumulator._batch_ttl == math.inf
        await producer.stop()


async def test_client_that_is_cancelled_while_it_starts_is_closed() -> None:
    class EndlessClient:
        is_closed = False

        async def start(self) -> None:
            await asyncio.sleep(3600)

        async def stop(self) -> None:
            self.is_closed = True

    client: Any = EndlessClient()
    starting = asyncio.create_task(start_client(client, SETTINGS))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert client.is_closed


class FakeConsumer:
    """A consumer whose task that fetches has ended or not."""

    def __init__(self, ended: bool) -> None:
        self._fetcher = SimpleNamespace(_fetch_task=SimpleNamespace(done=lambda: ended))

    async def getmany(self, *partitions: Any, **options: Any) -> dict[Any, Any]:
        return {"partitions": partitions, **options}


async def test_records_of_a_consumer_that_fetches_are_returned() -> None:
    fetching: Any = FakeConsumer(ended=False)
    assert await get_records(fetching, timeout_ms=5) == {"partitions": (), "timeout_ms": 5}


async def test_consumer_that_no_longer_fetches_is_an_error() -> None:
    """It would return nothing for ever, which looks like a topic without new records."""
    silent: Any = FakeConsumer(ended=True)
    with pytest.raises(KafkaError, match="stopped fetching"):
        await get_records(silent)


async def test_batches_that_are_given_up_leave_no_error_that_nobody_asked_for() -> None:
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    producer = create_producer(SETTINGS)
    accumulator = producer._message_accumulator
    sent = await accumulator.add_message(TopicPartition("topic", 0), b"key", b"value", timeout=1)
    producer.stop = functools.partial(asyncio.sleep, 3600)
    await close_producer(producer, 0.0)
    with pytest.raises(ProducerClosed):
        await sent
    producer._closed = True
    accumulator._batches.clear()
    gc.collect()
    assert unheard == []

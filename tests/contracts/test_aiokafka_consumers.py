"""What aiokafka's consumers do at their end, on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NodeNotReadyError

from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import topic_partition
from pipeline.settings import Settings
from topics.registry import SEND_REQUESTS


async def lose_broker(consumer: AIOKafkaConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a consumer's fetches fail as they do while a broker is away, so that they wait to try again."""
    waits = asyncio.Event()

    async def fail(*_: Any, **__: Any) -> None:
        waits.set()
        raise NodeNotReadyError

    monkeypatch.setattr(consumer._fetcher, "_retry_backoff", 3600.0)
    monkeypatch.setattr(consumer._client, "send", fail)
    consumer.seek(next(iter(consumer.assignment())), 0)
    await waits.wait()
    await asyncio.sleep(0.01)


@pytest.fixture
async def consumer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AIOKafkaConsumer]:
    made = create_consumer(settings, fetch_max_wait_ms=10)
    await start_client(made, settings)
    made.assign([topic_partition(SEND_REQUESTS.name, 0, settings)])
    await made.beginning_offsets(list(made.assignment()))
    await lose_broker(made, monkeypatch)
    yield made
    await made._client.close()


async def test_aiokafka_cancels_who_stops_a_consumer_that_waits_to_try_again(consumer: AIOKafkaConsumer) -> None:
    """Where this fails, aiokafka is mended, and `end_fetches_first` can go."""
    with pytest.raises(asyncio.CancelledError):
        await AIOKafkaConsumer.stop(consumer)


async def test_our_consumers_stop_and_close_their_connections(consumer: AIOKafkaConsumer) -> None:
    await consumer.stop()
    assert not consumer._client._conns or all(not conn.connected() for conn in consumer._client._conns.values())
    assert consumer._fetcher._fetch_task.done()

"""A partition's producer starts as every Kafka client does: its errors say what to do."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError, TransactionalIdAuthorizationFailed

from pipeline.errors import ClientRefused, LogUnavailable
from pipeline.settings import Settings
from pipeline.worker.streaming.producer import TransactionalProducer

SETTINGS = Settings(kafka_bootstrap="127.0.0.1:1")


@pytest.mark.parametrize(
    ("cause", "expected", "words"),
    [
        (TransactionalIdAuthorizationFailed("mailfold-0"), ClientRefused, "mailfold topics acls"),
        (KafkaConnectionError("no broker"), LogUnavailable, "KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer: .*no broker"),
    ],
)
async def test_producer_that_cannot_start_says_why(
    cause: Exception, expected: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = TransactionalProducer(SETTINGS, "mailfold", 0)

    async def fail() -> None:
        raise cause

    monkeypatch.setattr(producer._producer, "start", fail)
    with pytest.raises(expected, match=words) as raised:
        await producer.open()
    assert type(raised.value) is expected
    await producer.close()


async def test_producer_that_cannot_finish_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sender would go on sending for a partition that another worker has."""
    producer = TransactionalProducer(SETTINGS, "mailfold", 0)
    inner = producer._producer
    inner._sender._sender_task = sending = asyncio.create_task(asyncio.sleep(3600))

    async def hang() -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(inner, "stop", hang)
    await producer.close()
    await asyncio.wait([sending], timeout=10)
    assert sending.cancelled()
    inner._closed = True

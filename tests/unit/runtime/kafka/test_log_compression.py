"""When a process compresses what it appends."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pipeline.runtime.kafka import log_compression
from pipeline.runtime.kafka.clients import create_producer
from pipeline.runtime.kafka.log_compression import LogCompression, open_compression
from pipeline.settings import Settings
from projections.feature_level import COMPRESSED_LOG_LEVEL, FIRST_LEVEL

SETTINGS = Settings(kafka_bootstrap="127.0.0.1:1", kafka_security_protocol="PLAINTEXT")
VALUE = b"the same words " * 100


def batch_bytes(producer: Any, value: bytes = VALUE) -> int:
    """Return the size of a batch as the producer would send it."""
    batch = producer.create_batch()
    assert batch.append(key=None, value=value, timestamp=None) is not None
    return len(batch._build())


async def test_producer_follows_the_compression() -> None:
    compression = LogCompression()
    producer = create_producer(SETTINGS, compression)
    assert batch_bytes(producer) > len(VALUE)
    compression.is_on = True
    assert batch_bytes(producer) < len(VALUE) / 5
    await producer.stop()


async def test_producer_without_compression_never_compresses() -> None:
    producer = create_producer(SETTINGS)
    assert batch_bytes(producer) > len(VALUE)
    await producer.stop()


async def test_size_of_a_batch_is_limited_before_it_is_compressed() -> None:
    """So nothing of ours unpacks to more than an uncompressed batch may hold."""
    sizes = []
    for is_on in (False, True):
        producer = create_producer(SETTINGS, LogCompression(is_on=is_on), max_batch_size=10_000)
        batch = producer.create_batch()
        while batch.append(key=None, value=VALUE, timestamp=None) is not None:
            pass
        sizes.append(batch.record_count())
        await producer.stop()
    assert sizes == [10_000 // len(VALUE)] * 2


def levels(*values: int | Exception) -> Any:
    """Return a function that reads these levels, one after the other."""
    remaining: Iterator[int | Exception] = iter(values)

    async def read() -> int:
        value = next(remaining)
        if isinstance(value, Exception):
            raise value
        return value

    return read


async def test_compression_begins_when_the_level_is_raised_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_compression, "CHECK_INTERVAL_S", 0.001)
    away = psycopg.OperationalError()
    async with open_compression(levels(FIRST_LEVEL, away, FIRST_LEVEL, COMPRESSED_LOG_LEVEL)) as compression:
        assert not compression.is_on
        async with asyncio.timeout(10):
            while not compression.is_on:
                await asyncio.sleep(0.001)


async def test_process_starts_without_compression_while_the_level_is_unknown() -> None:
    for error in (psycopg.OperationalError(), psycopg.errors.UndefinedTable()):
        async with open_compression(levels(error)) as compression:
            assert not compression.is_on


async def test_new_installation_compresses_at_once() -> None:
    async with open_compression(levels(COMPRESSED_LOG_LEVEL)) as compression:
        assert compression.is_on

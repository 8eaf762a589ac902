"""Read topics and tables, and poll until a condition is true."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import topic_partition
from pipeline.settings import Settings
from topics.codec import decode
from topics.registry import Topic

PATIENCE_S = 20.0


async def until(
    condition: Callable[[], Any], patience: float = PATIENCE_S, watched: "asyncio.Task[None] | None" = None
) -> Any:
    """Poll a condition, sync or async, until its value is true, and return the value.

    Raise TimeoutError after ``patience`` seconds, and the error of the ``watched`` task when that ends.
    """
    async with asyncio.timeout(patience):
        while True:
            if watched is not None and watched.done():
                watched.result()
                raise AssertionError("the task ended before the condition was true")
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


async def on(settings: Settings, topic: Topic) -> list[Any]:
    """Return all records that a topic has now, partition by partition."""
    placed = await records(settings, topic)
    return [record for *_, record in sorted(placed, key=lambda row: row[:2])]


async def records(settings: Settings, topic: Topic) -> list[Any]:
    """Return all records that a topic has now, with their places: (partition, offset, key, record)."""
    reader = create_consumer(settings)
    await reader.start()
    try:
        numbers = range(1 if topic.has_one_partition else settings.partitions)
        partitions = [topic_partition(topic.name, number, settings) for number in numbers]
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        await reader.seek_to_beginning(*partitions)
        placed: list[Any] = []
        async with asyncio.timeout(PATIENCE_S):
            while any([await reader.position(partition) < ends[partition] for partition in partitions]):
                for batch in (await reader.getmany(timeout_ms=200)).values():
                    placed += [(m.partition, m.offset, m.key, decode(topic, m.value)) for m in batch]
        return placed
    finally:
        await reader.stop()


async def rows(rt: Runtime, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    async with rt.pool.connection() as connection:
        return await (await connection.execute(query, values or None)).fetchall()  # type: ignore[arg-type,unused-ignore]

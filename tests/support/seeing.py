"""What a test looks at: what lies on a topic, what a query finds, until it is what it must become."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import create_consumer, topic_partition
from pipeline.settings import Settings
from topics.codec import decode
from topics.registry import Topic

PATIENCE_S = 20.0


async def until(
    asked: Callable[[], Any], patience: float = PATIENCE_S, watched: "asyncio.Task[None] | None" = None
) -> Any:
    """Poll a question, sync or async, until its answer is true. Raises TimeoutError, or what ended the watched task."""
    async with asyncio.timeout(patience):
        while True:
            if watched is not None and watched.done():
                watched.result()
                raise AssertionError("it ended before that happened")
            answer = asked()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.02)


async def on(settings: Settings, topic: Topic) -> list[Any]:
    """All records that lie on a topic now, partition by partition."""
    found = await records(settings, topic)
    return [record for *_, record in sorted(found, key=lambda one: one[:2])]


async def records(settings: Settings, topic: Topic) -> list[Any]:
    """All that lies on a topic now, with its place: (partition, offset, key, record)."""
    reader = create_consumer(settings)
    await reader.start()
    try:
        numbers = range(1 if topic.has_one_partition else settings.partitions)
        partitions = [topic_partition(topic.name, number, settings) for number in numbers]
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        await reader.seek_to_beginning(*partitions)
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE_S):
            while any([await reader.position(partition) < ends[partition] for partition in partitions]):
                for batch in (await reader.getmany(timeout_ms=200)).values():
                    found += [(m.partition, m.offset, m.key, decode(topic, m.value)) for m in batch]
        return found
    finally:
        await reader.stop()


async def rows(rt: Runtime, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a query finds."""
    async with rt.pool.connection() as connection:
        return await (await connection.execute(query, values or None)).fetchall()  # type: ignore[arg-type,unused-ignore]

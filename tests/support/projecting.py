"""Run the real projector in this process, publish changes to it, and check whether it has caught up."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from aiokafka import TopicPartition

from pipeline.project import main as project
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.working import beside, working
from topics.changes import EmailChange
from topics.registry import EMAIL_CHANGES


def projecting(settings: Settings) -> AbstractAsyncContextManager[Runtime]:
    """Run a projector until the end of the block."""
    # The pool also serves a rebuild, which in production is a separate process with its own pool.
    return working(settings, project.run, pool_size=8)


@contextlib.asynccontextmanager
async def gateway_and_projector(settings: Settings) -> AsyncIterator[Gateway]:
    """Run a gateway and a projector, so that what is posted can be queried."""
    async with gateway(settings) as served, beside(served.rt, project.run):
        yield served


async def publish(rt: Runtime, changes: list[EmailChange]) -> None:
    await append_all(rt.log, [LogEntry(EMAIL_CHANGES, change.email_id, change) for change in changes])


async def ends(settings: Settings) -> dict[int, int]:
    """Return the end offsets of email-changes by partition."""
    reader = create_consumer(settings)
    await reader.start()
    try:
        partitions = [TopicPartition(settings.topic(EMAIL_CHANGES.name), number) for number in range(2)]
        return {partition.partition: end for partition, end in (await reader.end_offsets(partitions)).items()}
    finally:
        await reader.stop()


async def caught_up(rt: Runtime) -> bool:
    """Return whether Postgres and the group are at the log's end, and no partition waits for a tick any more."""
    expected = {number: end for number, end in (await ends(rt.settings)).items() if end}
    async with rt.pool.connection() as connection:
        rows = await (
            await connection.execute(
                "select partition, next_offset, rebuilding_to, through, changed from projections.next_offsets"
            )
        ).fetchall()
    last = max((row[4] for row in rows), default=0)
    if any(through <= last for *_, through, _ in rows):
        return False
    stored = {row[0]: row[1] for row in rows if row[1] and row[2] is None}
    return stored == expected and await committed(rt.settings) == expected


async def committed(settings: Settings) -> dict[int, int]:
    """Return the offsets that the projector's group has committed, by partition."""
    reader = create_consumer(settings, group_id=project.consumer_group(settings))
    await reader.start()
    try:
        topic = settings.topic(EMAIL_CHANGES.name)
        offsets = {number: await reader.committed(TopicPartition(topic, number)) for number in range(2)}
        return {number: offset for number, offset in offsets.items() if offset}
    finally:
        await reader.stop()

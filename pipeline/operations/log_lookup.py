"""A name in, what the end of the log tells of it out: for emails that no table knows yet.

Facts are keyed by email_id, so the partition is known; the scan is bounded by offsets and time.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import DefaultPartitioner

from pipeline import admin
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import consumer, partition_of
from pipeline.worker.fold import evolve
from projections.columns import storable
from projections.debts import DIALECT
from projections.postgres import Story, Told
from projections.steps import event_id, revision
from topics.codec import Undecodable, decode
from topics.ids import email_id
from topics.record import EmailId, Place
from topics.registry import FACTS, Topic

LAST: Final = 20_000
"""Records looked at, per topic; the way to the tables is shorter than that, or `mailfold status` shows the lag."""

PATIENCE: Final = 10.0


async def look_on_log(rt: Runtime, name: str, tenant: str | None) -> list[Story]:
    """The stories of the emails that ``name`` may mean, as far as the log's end tells them."""
    # A new assignment waits for the fetch that is under way.
    reader = consumer(rt.settings, fetch_max_wait_ms=20)
    await reader.start()
    try:
        found = [await _story(rt, reader, candidate) for candidate in await _candidates(rt, name, tenant)]
    finally:
        await reader.stop()
    return [story for story in found if story is not None]


async def _candidates(rt: Runtime, name: str, tenant: str | None) -> list[EmailId]:
    """The name itself, and what each tenant's Fast Track email with this activity.id would be called."""
    plain = name.strip().lower()
    own = [EmailId(plain)] if storable(plain) else []
    tenants = [row[0] for row in await admin.rows(rt.pool, "list_tenants")]
    return own + [email_id(one, DIALECT, name) for one in tenants if tenant in (None, one)]


async def _story(rt: Runtime, reader: AIOKafkaConsumer, wanted: EmailId) -> Story | None:
    timeline: dict[str, Told] = {}
    state, number = None, 0
    for topic in FACTS:
        number = await _partition(rt, reader, topic, wanted)
        for fact, place in await _facts(rt, reader, topic, number, wanted):
            state = evolve(state, fact)
            told = timeline.get(event_id(fact), Told(fact, []))
            newest = fact if revision(fact) > revision(told.fact) else told.fact
            timeline[event_id(fact)] = Told(newest, [*told.places, str(place)])
    if state is None:
        return None
    return Story(state=state, version=0, since=0, partition=number, timeline=list(timeline.values()), jobs=[])


async def _partition(rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, wanted: EmailId) -> int:
    """Where Kafka's default partitioner (murmur2) puts this key."""
    await reader.topics()
    name = rt.settings.topic(topic.name)
    reader.assign([partition_of(topic.name, 0, rt.settings)])
    numbers = sorted(reader.partitions_for_topic(name) or range(rt.settings.partitions))
    return int(DefaultPartitioner()(wanted.encode(), numbers, numbers))


async def _facts(
    rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, number: int, wanted: EmailId
) -> Iterable[tuple[Any, Place]]:
    partition = partition_of(topic.name, number, rt.settings)
    reader.assign([partition])
    end = (await reader.end_offsets([partition]))[partition]
    beginning = (await reader.beginning_offsets([partition]))[partition]
    reader.seek(partition, max(beginning, end - LAST))
    found: list[tuple[Any, Place]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while await reader.position(partition) < end:
                for record in (await reader.getmany(partition, timeout_ms=200)).get(partition, []):
                    if record.key == wanted.encode():
                        found += _read(topic, record)
    return found


def _read(topic: Topic, record: Any) -> list[tuple[Any, Place]]:
    place = Place(topic=topic.name, partition=record.partition, offset=record.offset)
    with contextlib.suppress(Undecodable):
        return [(decode(topic, record.value), place)]
    return []

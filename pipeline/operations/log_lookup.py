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
from pipeline.runtime.kafka import create_consumer, topic_partition
from pipeline.worker.fold import evolve
from projections.columns import is_storable_id
from projections.debts import FASTTRACK_DIALECT
from projections.postgres import EmailHistory, TimelineFact
from projections.steps import fact_event_id, fact_revision
from topics.codec import Undecodable, decode
from topics.ids import email_id
from topics.record import EmailId, LogPosition
from topics.registry import FACT_TOPICS, Topic

MAX_SCANNED_RECORDS: Final = 20_000
"""Records looked at, per topic; the way to the tables is shorter than that, or `mailfold status` shows the lag."""

SCAN_TIMEOUT_S: Final = 10.0


async def stories_on_log(rt: Runtime, name: str, tenant: str | None) -> list[EmailHistory]:
    """The stories of the emails that ``name`` may mean, as far as the log's end tells them."""
    # A new assignment waits for the fetch that is under way.
    reader = create_consumer(rt.settings, fetch_max_wait_ms=20)
    await reader.start()
    try:
        found = [await _story(rt, reader, candidate) for candidate in await _candidates(rt, name, tenant)]
    finally:
        await reader.stop()
    return [story for story in found if story is not None]


async def _candidates(rt: Runtime, name: str, tenant: str | None) -> list[EmailId]:
    """The name itself, and what each tenant's Fast Track email with this activity.id would be called."""
    plain = name.strip().lower()
    own = [EmailId(plain)] if is_storable_id(plain) else []
    tenants = [row[0] for row in await admin.fetch_rows(rt.pool, "list_tenants")]
    return own + [email_id(one, FASTTRACK_DIALECT, name) for one in tenants if tenant in (None, one)]


async def _story(rt: Runtime, reader: AIOKafkaConsumer, wanted: EmailId) -> EmailHistory | None:
    timeline: dict[str, TimelineFact] = {}
    state, number = None, 0
    for topic in FACT_TOPICS:
        number = await _partition(rt, reader, topic, wanted)
        for fact, place in await _facts(rt, reader, topic, number, wanted):
            state = evolve(state, fact)
            told = timeline.get(fact_event_id(fact), TimelineFact(fact, []))
            newest = fact if fact_revision(fact) > fact_revision(told.fact) else told.fact
            timeline[fact_event_id(fact)] = TimelineFact(newest, [*told.places, str(place)])
    if state is None:
        return None
    return EmailHistory(state=state, version=0, since=0, partition=number, timeline=list(timeline.values()), jobs=[])


async def _partition(rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, wanted: EmailId) -> int:
    """Where Kafka's default partitioner (murmur2) puts this key."""
    await reader.topics()
    name = rt.settings.topic(topic.name)
    reader.assign([topic_partition(topic.name, 0, rt.settings)])
    numbers = sorted(reader.partitions_for_topic(name) or range(rt.settings.partitions))
    return int(DefaultPartitioner()(wanted.encode(), numbers, numbers))


async def _facts(
    rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, number: int, wanted: EmailId
) -> Iterable[tuple[Any, LogPosition]]:
    partition = topic_partition(topic.name, number, rt.settings)
    reader.assign([partition])
    end = (await reader.end_offsets([partition]))[partition]
    beginning = (await reader.beginning_offsets([partition]))[partition]
    reader.seek(partition, max(beginning, end - MAX_SCANNED_RECORDS))
    found: list[tuple[Any, LogPosition]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SCAN_TIMEOUT_S):
            while await reader.position(partition) < end:
                for record in (await reader.getmany(partition, timeout_ms=200)).get(partition, []):
                    if record.key == wanted.encode():
                        found += _read(topic, record)
    return found


def _read(topic: Topic, record: Any) -> list[tuple[Any, LogPosition]]:
    place = LogPosition(topic=topic.name, partition=record.partition, offset=record.offset)
    with contextlib.suppress(Undecodable):
        return [(decode(topic, record.value), place)]
    return []

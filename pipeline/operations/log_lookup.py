"""Find emails at the end of the log that are not projected yet; `mailfold trace` calls it.

Facts are keyed by email_id, which determines their partition; the scan is limited in records and time.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import DefaultPartitioner

from pipeline import admin
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import topic_partition
from pipeline.worker.fold import evolve
from projections.columns import is_storable_id
from projections.history_queries import EmailHistory
from projections.pending_conversions import FASTTRACK_DIALECT
from projections.row_changes import fact_event_id, fact_revision
from projections.timeline import TimelineFact
from topics.codec import Undecodable, decode
from topics.ids import email_id
from topics.record import EmailId, LogPosition
from topics.registry import FACT_TOPICS, Topic

MAX_SCANNED_RECORDS: Final = 20_000
"""Records that are scanned per topic. The projector is normally closer to the end; `mailfold status` shows the lag."""

SCAN_TIMEOUT_S: Final = 10.0


async def histories_on_log(rt: Runtime, name: str, tenant: str | None) -> list[EmailHistory]:
    """Return the histories of the emails that ``name`` may mean, as far as their facts are at the end of the log."""
    # A new assignment takes effect only after the current fetch, which must therefore be short.
    reader = create_consumer(rt.settings, fetch_max_wait_ms=20)
    await reader.start()
    try:
        histories = [await _read_history(rt, reader, candidate) for candidate in await _candidates(rt, name, tenant)]
    finally:
        await reader.stop()
    return [history for history in histories if history is not None]


async def _candidates(rt: Runtime, name: str, tenant: str | None) -> list[EmailId]:
    """Return ``name`` if it is an email_id, and the id of each tenant's Fast Track email with this activity.id."""
    text = name.strip().lower()
    as_id = [EmailId(text)] if is_storable_id(text) else []
    tenants = [row[0] for row in await admin.fetch_rows(rt.pool, "list_tenants")]
    return as_id + [email_id(each, FASTTRACK_DIALECT, name) for each in tenants if tenant in (None, each)]


async def _read_history(rt: Runtime, reader: AIOKafkaConsumer, email: EmailId) -> EmailHistory | None:
    timeline: dict[str, TimelineFact] = {}
    state, number = None, 0
    for topic in FACT_TOPICS:
        number = await _partition_of(rt, reader, topic, email)
        for fact, position in await _read_facts(rt, reader, topic, number, email):
            state = evolve(state, fact)
            known = timeline.get(fact_event_id(fact), TimelineFact(fact, []))
            newest = fact if fact_revision(fact) > fact_revision(known.fact) else known.fact
            timeline[fact_event_id(fact)] = TimelineFact(newest, [*known.places, str(position)])
    if state is None:
        return None
    return EmailHistory(state=state, version=0, since=0, partition=number, timeline=list(timeline.values()), jobs=[])


async def _partition_of(rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, email: EmailId) -> int:
    """Return the partition that Kafka's default partitioner (murmur2) selects for this key."""
    await reader.topics()
    name = rt.settings.topic(topic.name)
    reader.assign([topic_partition(topic.name, 0, rt.settings)])
    numbers = sorted(reader.partitions_for_topic(name) or range(rt.settings.partitions))
    return int(DefaultPartitioner()(email.encode(), numbers, numbers))


async def _read_facts(
    rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, number: int, email: EmailId
) -> Iterable[tuple[Any, LogPosition]]:
    partition = topic_partition(topic.name, number, rt.settings)
    reader.assign([partition])
    end = (await reader.end_offsets([partition]))[partition]
    beginning = (await reader.beginning_offsets([partition]))[partition]
    reader.seek(partition, max(beginning, end - MAX_SCANNED_RECORDS))
    facts: list[tuple[Any, LogPosition]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SCAN_TIMEOUT_S):
            while await reader.position(partition) < end:
                for record in (await reader.getmany(partition, timeout_ms=200)).get(partition, []):
                    if record.key == email.encode():
                        facts += _decode_fact(topic, record)
    return facts


def _decode_fact(topic: Topic, record: Any) -> list[tuple[Any, LogPosition]]:
    """Return the fact in a record and its position; empty if the record cannot be decoded. Raise NewerRecord."""
    position = LogPosition(topic=topic.name, partition=record.partition, offset=record.offset)
    with contextlib.suppress(Undecodable):
        return [(decode(topic, record.value), position)]
    return []

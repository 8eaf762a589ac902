"""Find out whether the log still has the records that were read from it; readers call it when they start."""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.clients import get_records
from projections.log_mark import LogMark, mark_of

READ_TIMEOUT_S: Final = 10.0
"""Seconds for the marked records to come."""
HINT: Final = (
    "the log was restored to an older moment, a topic was made anew, or this is another cluster. Nothing is read or "
    "sent until it is clear which: `mailfold recover`"
)


async def find_lost_marks(
    consumer: AIOKafkaConsumer, marks: Mapping[TopicPartition, LogMark]
) -> dict[TopicPartition, LogMark]:
    """Return the marks whose record is not at its place on the log, without those that have expired.

    The partitions are assigned to the consumer; its positions in them are elsewhere afterwards. Raise KafkaError, and
    LogUnavailable if the brokers do not answer.
    """
    places = list(marks)
    beginnings, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    lost = {place: mark for place, mark in marks.items() if mark.offset >= ends[place]}
    unread = {place for place in places if beginnings[place] <= marks[place].offset < ends[place]}
    for place in unread:
        consumer.seek(place, marks[place].offset)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            while unread:
                fetched = await get_records(consumer, *unread, timeout_ms=200)
                for place in list(unread):
                    records = fetched.get(place)
                    if records or await consumer.position(place) > marks[place].offset:
                        unread.discard(place)
                        if not records or mark_of(records[0]) != marks[place]:
                            lost[place] = marks[place]
    except TimeoutError:
        raise LogUnavailable(f"the log can't be read at {len(unread)} places that were read before") from None
    return lost


def describe_short_log(place: TopicPartition, next_offset: int, end: int) -> str:
    """Return the sentence about a log that ends before what was read from it."""
    return f"{place.topic}/{place.partition} was read up to offset {next_offset}, but ends at {end}: {HINT}"


def describe_other_log(place: TopicPartition, mark: LogMark) -> str:
    """Return the sentence about a log that has another record, or none, where one was read."""
    return f"{place.topic}/{place.partition} has another record at offset {mark.offset} than was read there: {HINT}"

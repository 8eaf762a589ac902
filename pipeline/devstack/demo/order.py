"""In which order the log first said each word of each email: raw `email-changes` in, groups of words out.

What happened a second apart may reach the log the other way round on a stalled machine; then that
is the order in which Fast Track must hear of it. Read as plain JSON: no code of the fold's here.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

WORD_BY_MARK: Final = {
    "delivered": "delivered",
    "opened": "open",
    "clicked": "click",
    "bounced": "bounce",
    "dropped": "dropped",
    "failed": "failed",
    "complained": "spam",
}
"""A state's mark -> the word it makes Fast Track owed."""

WordOrder = tuple[frozenset[str], ...]
"""Words that one change brought together have no order among themselves."""


def word_orders(changes: Iterable[bytes]) -> dict[str, WordOrder]:
    """Each email's words as the log first said them; ``changes`` in the order of their partitions."""
    orders: dict[str, WordOrder] = {}
    for change in changes:
        record: dict[str, Any] = json.loads(change)
        state: dict[str, Any] | None = record.get("state")
        if state is None:  # a tick: what time it is, nothing that changed
            continue
        before = orders.get(state["email_id"], ())
        new = frozenset(word for mark, word in WORD_BY_MARK.items() if mark in state).difference(*before)
        orders[state["email_id"]] = (*before, new) if new else before
    return orders


def is_in_order(told: Iterable[str], order: WordOrder) -> bool:
    """Whether words were told as the log said them."""
    place = {word: number for number, words in enumerate(order) for word in words}
    places = [place.get(word, len(order)) for word in told]
    return places == sorted(places)


async def read_changes(bootstrap: str, topic: str) -> list[bytes]:
    """All that lies on the topic, partition by partition."""
    reader = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await reader.start()
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic) or ())]
        await reader.seek_to_beginning(*partitions)
        return [value for partition in partitions for value in await _read(reader, partition)]
    finally:
        await reader.stop()


async def _read(reader: AIOKafkaConsumer, partition: TopicPartition) -> list[bytes]:
    end = (await reader.end_offsets([partition]))[partition]
    values: list[bytes] = []
    while await reader.position(partition) < end:
        for records in (await reader.getmany(partition, timeout_ms=500)).values():
            values += [record.value for record in records]
    return values

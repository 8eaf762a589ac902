"""The order of each email's conversions according to the log; the demo checks the received order against it.

Events that occurred a second apart may reach the log in the opposite order on a slow machine; Fast Track
must then receive them in the log's order. Records are decoded as plain JSON, without the product's code.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.settings import Settings
from topics.registry import EMAIL_CHANGES

WORD_BY_MARK: Final = {
    "delivered": "delivered",
    "opened": "open",
    "clicked": "click",
    "bounced": "bounce",
    "dropped": "dropped",
    "failed": "failed",
    "complained": "spam",
}
"""Conversion that is owed to Fast Track, by the field of the state that makes it."""

WordOrder = tuple[frozenset[str], ...]
"""Groups of conversions in order; those of one group became due by the same change and may arrive in any order."""


def word_orders(changes: Iterable[bytes]) -> dict[str, WordOrder]:
    """Return the order of each email's conversions by email_id; ``changes`` are in the order of their partitions."""
    orders: dict[str, WordOrder] = {}
    for change in changes:
        record: dict[str, Any] = json.loads(change)
        state: dict[str, Any] | None = record.get("state")
        if state is None:  # a tick, which only carries the time
            continue
        earlier = orders.get(state["email_id"], ())
        new_words = frozenset(word for mark, word in WORD_BY_MARK.items() if mark in state).difference(*earlier)
        orders[state["email_id"]] = (*earlier, new_words) if new_words else earlier
    return orders


def is_in_order(received: Iterable[str], order: WordOrder) -> bool:
    """Return whether conversions were received in the log's order."""
    positions = {word: position for position, words in enumerate(order) for word in words}
    received_positions = [positions.get(word, len(order)) for word in received]
    return received_positions == sorted(received_positions)


async def read_changes(settings: Settings) -> list[bytes]:
    """Return all values on the topic `email-changes`, partition by partition."""
    topic = settings.topic(EMAIL_CHANGES.name)
    reader = create_consumer(settings, EMAIL_CHANGES.name)
    await start_client(reader, settings)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic) or ())]
        await reader.seek_to_beginning(*partitions)
        return [value for partition in partitions for value in await _read_partition(reader, partition)]
    finally:
        await reader.stop()


async def _read_partition(reader: AIOKafkaConsumer, partition: TopicPartition) -> list[bytes]:
    end = (await reader.end_offsets([partition]))[partition]
    values: list[bytes] = []
    while await reader.position(partition) < end:
        for records in (await reader.getmany(partition, timeout_ms=500)).values():
            values += [record.value for record in records]
    return values

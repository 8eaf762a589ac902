"""Represent a record read from Kafka, and make its dead letter, for every role that reads a topic. Pure."""

from typing import Any

import msgspec

from topics.dead_letters import DeadLetter, dead_letter
from topics.record import LogPosition, Millis
from topics.registry import Topic


class ConsumedRecord(msgspec.Struct, frozen=True, gc=False):
    """An undecoded record with its topic and position on the log."""

    topic: Topic
    place: LogPosition
    key: bytes | None
    value: bytes | None

    @classmethod
    def of(cls, topic: Topic, partition: int, record: Any) -> "ConsumedRecord":
        """Return the consumed record of a Kafka client's ``record``, which has an `offset`, a `key` and a `value`."""
        place = LogPosition(topic=topic.name, partition=partition, offset=record.offset)
        return cls(topic, place, record.key, record.value)

    def dead_letter(self, now: Millis, reason: str, error: str, *, role: str) -> DeadLetter:
        """Return the dead letter of this record."""
        return dead_letter(self.place, now, reason, error, role=role, key=self.key, value=self.value)

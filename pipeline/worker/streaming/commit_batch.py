"""What runs were folded to, run by run, in; what one transaction writes and commits, out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from topics.registry import EMAIL_CHANGES, EMAIL_STATES, Topic

BATCH_MAX_RECORDS: Final = 10_000
"""Records that a group takes; its agent waits then, and by and by the fetching does."""
BATCH_MAX_BYTES: Final = 32 * 1024 * 1024
"""Bytes that a group takes, about: they lie in memory, and have to be confirmed before the brokers give up on them."""


class FoldResult(msgspec.Struct, frozen=True):
    """What a run was folded to."""

    states: Mapping[bytes, bytes]
    changes: Sequence[tuple[bytes, bytes]]
    others: Sequence[tuple[Topic, bytes]] = ()
    """Records without a key, for the only partition of their topic."""

    def size_bytes(self) -> int:
        """Its bytes, about."""
        states = sum(map(len, self.states.values()))
        return states + sum(len(told) for _, told in self.changes) + sum(len(told) for _, told in self.others)


class CommitBatch:
    """Runs that are written together."""

    def __init__(self) -> None:
        self.record_count = 0
        self.size_bytes = 0
        self.messages: list[Any] = []
        self.states: dict[bytes, bytes | None] = {}
        """None: it leaves the table."""
        self.changes: list[tuple[bytes | None, bytes]] = []
        self.others: dict[Topic, list[tuple[bytes | None, bytes]]] = defaultdict(list)

    def add(self, message: Any, step: FoldResult) -> None:
        """A run and what it was folded to."""
        self.messages.append(message)
        self.record_count += len(message.value.span.records)
        self.states |= step.states
        self.changes += step.changes
        for topic, value in step.others:
            self.others[topic].append((None, value))
        self.size_bytes += step.size_bytes()

    def is_full(self) -> bool:
        """Whether whatever else comes has to wait."""
        return self.record_count >= BATCH_MAX_RECORDS or self.size_bytes >= BATCH_MAX_BYTES

    def writes(self, partition: int) -> dict[tuple[Topic, int], Any]:
        """What goes where; of several states of one email only the last."""
        found: dict[tuple[Topic, int], Any] = {(topic, 0): pairs for topic, pairs in self.others.items()}
        if self.states:
            found[EMAIL_STATES, partition] = self.states.items()
        if self.changes:
            found[EMAIL_CHANGES, partition] = self.changes
        return found

    def offsets(self) -> dict[Any, int]:
        """The end of the runs, topic by topic."""
        return {TopicPartition(*message.tp): message.value.span.end for message in self.messages}

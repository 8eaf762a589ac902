"""Collects the results of folded batches until one transaction writes them; used by the partition writers."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from pipeline.runtime.observing.tracing import Attribute, TracedKey, batch_attributes, contexts_of, email_ids_of
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, Topic

BATCH_MAX_RECORDS: Final = 10_000
"""Records in a full commit batch; at this limit the agent waits, and fetching stops soon after."""
BATCH_MAX_BYTES: Final = 32 * 1024 * 1024
"""Bytes in a full commit batch, approximately: they are held in memory and must be confirmed within the append
timeout."""


class FoldResult(msgspec.Struct, frozen=True):
    """The records that folding one batch produced."""

    states: Mapping[bytes, bytes]
    changes: Sequence[tuple[bytes, bytes]]
    others: Sequence[tuple[Topic, bytes]] = ()
    """Records without a key, for the only partition of their topic."""

    def size_bytes(self) -> int:
        """Return the size of all values in bytes, without keys."""
        states = sum(map(len, self.states.values()))
        return states + sum(len(value) for _, value in self.changes) + sum(len(value) for _, value in self.others)


class CommitBatch:
    """Results of consecutive batches that are written in one transaction."""

    def __init__(self) -> None:
        self.record_count = 0
        self.size_bytes = 0
        self.messages: list[Any] = []
        self.states: dict[bytes, bytes | None] = {}
        """States by key; None removes one from the table."""
        self.changes: list[tuple[bytes | None, bytes]] = []
        self.others: dict[Topic, list[tuple[bytes | None, bytes]]] = defaultdict(list)
        self.traced: list[TracedKey] = []
        self._traced_since_ns: int | None = None

    def add(self, message: Any, result: FoldResult) -> None:
        """Add a batch's message and its result."""
        self.messages.append(message)
        self.record_count += len(message.value.span.records)
        self.states |= result.states
        self.changes += result.changes
        for topic, value in result.others:
            self.others[topic].append((None, value))
        self.size_bytes += result.size_bytes()

    def add_traced(self, keys: Sequence[TracedKey]) -> None:
        """Add the keys and trace contexts of those records of a batch that are traced."""
        if keys and self._traced_since_ns is None:
            self._traced_since_ns = time.time_ns()
        self.traced += keys

    def causes(self, partition: int) -> tuple[list[str], dict[str, Attribute], int | None]:
        """Return what the transaction's span is made of: contexts, attributes and the time of its start."""
        if not self.traced:
            return [], {}, None
        attributes = batch_attributes(EMAIL_CHANGES.name, email_ids_of(self.traced))
        attributes["messaging.destination.partition.id"] = str(partition)
        return contexts_of(self.traced), attributes, self._traced_since_ns

    def is_full(self) -> bool:
        """Return whether further batches must wait for the next transaction."""
        return self.record_count >= BATCH_MAX_RECORDS or self.size_bytes >= BATCH_MAX_BYTES

    def writes(self, partition: int) -> dict[tuple[Topic, int], Any]:
        """Return the records to write by topic and partition; of several states of one email only the last."""
        writes: dict[tuple[Topic, int], Any] = {(topic, 0): pairs for topic, pairs in self.others.items()}
        if self.states:
            writes[EMAIL_STATES, partition] = self.states.items()
        if self.changes:
            writes[EMAIL_CHANGES, partition] = self.changes
        return writes

    def offsets(self) -> dict[Any, int]:
        """Return the offset to commit of each topic's partition: the end of its last batch."""
        return {TopicPartition(*message.tp): message.value.span.end for message in self.messages}

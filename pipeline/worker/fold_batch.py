"""Folds a batch of one partition's records into states, changes and dead letters. Pure; called by the fold's agent.

Facts are grouped by email in log order, so that each email costs one read and one write. A repeat changes no state,
so none is written; its change is written, because it records the repeat's place on the log. State, change and offset
are written in one transaction, so nothing that was written once has to be written again.

Encoded bytes are reused: a fact is copied from its topic into its change, and the change holds the stored state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.worker.fold import evolve
from topics.changes import EncodedAppliedFact, EncodedEmailChange, Fact
from topics.codec import NewerRecord, Undecodable, decode_with_raw, encode, encode_parts
from topics.dead_letters import DeadLetter
from topics.join import bounded_state
from topics.record import Millis
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, MAX_RECORD_BYTES, Topic
from topics.states import EmailState

ROLE: Final = "fold"
SLICE_MAX_RECORDS: Final = 1000
"""Records that are decoded, folded and encoded together: each step's results are still in the processor's cache for
the next step. For a whole batch of 4 MB they would not be."""


UNCHECKED_STATE_MAX_BYTES: Final = 8_192
"""Bytes of a stored state up to which its bounds are not checked; a mark with too many ids is cut when a fact joins."""


class RecordBatch(msgspec.Struct, frozen=True):
    """Consecutive records of one partition; each has an `offset`, a `key` and a `value`."""

    topic: Topic
    partition: int
    records: Sequence[Any]

    def consumed_record(self, record: Any) -> ConsumedRecord:
        """Return one record with its place on the log."""
        return ConsumedRecord.of(self.topic, self.partition, record)

    def consumed_records(self) -> list[ConsumedRecord]:
        """Return all records with their places."""
        return [self.consumed_record(record) for record in self.records]

    def without(self, offset: int) -> "RecordBatch":
        """Return the batch without the record at this offset."""
        records = [record for record in self.records if record.offset != offset]
        return RecordBatch(self.topic, self.partition, records)

    def keys(self) -> list[bytes]:
        """Return each key once."""
        return list({record.key for record in self.records if record.key is not None})

    def slices(self, size: int) -> Iterator["RecordBatch"]:
        """Yield the same records as batches of at most ``size``."""
        for start in range(0, len(self.records), size):
            yield RecordBatch(self.topic, self.partition, self.records[start : start + size])


class FactRecord(msgspec.Struct, frozen=True, gc=False):
    """A fact with its encoded form and the record it was decoded from."""

    fact: Fact
    raw: msgspec.Raw
    record: Any


FactsByKey = dict[bytes, list[FactRecord]]


class FoldedBatch(msgspec.Struct, gc=False):
    """The records to write for a batch."""

    states: dict[bytes, bytes]
    """email_id -> the encoded state after the batch; only where it changed."""
    changes: list[tuple[bytes, bytes]]
    """email_id and change, encoded."""
    dead: list[DeadLetter]


def sort_facts(batch: RecordBatch, now: Millis) -> tuple[FactsByKey, list[DeadLetter]]:
    """Return a batch's facts by key, and dead letters for records that are no fact or have another email's key.

    Raises NewerRecord for a version that only a newer worker knows.
    """
    facts: FactsByKey = {}
    dead: list[DeadLetter] = []
    topic = batch.topic
    for record in batch.records:
        try:
            fact, raw = decode_with_raw(topic, record.value)
        except NewerRecord as error:
            raise error.at(batch.consumed_record(record).place) from None
        except Undecodable as error:
            dead.append(batch.consumed_record(record).dead_letter(now, "undecodable", str(error), role=ROLE))
            continue
        key = fact.email_id.encode()
        if key != record.key:
            dead.append(
                batch.consumed_record(record).dead_letter(
                    now, "misplaced", "the record's key is not its email_id", role=ROLE
                )
            )
            continue
        fact_record = FactRecord(fact, raw, record)
        if key in facts:
            facts[key].append(fact_record)
        else:
            facts[key] = [fact_record]
    return facts, dead


StateReader = Callable[[Sequence[bytes]], Mapping[bytes, bytes | None]]
"""A function that returns the stored state of each key; None where there is none."""


def fold_batch(batch: RecordBatch, read_states: StateReader, now: Millis, size: int = SLICE_MAX_RECORDS) -> FoldedBatch:
    """Read the states of all keys at once, then fold the records in slices of ``size``."""
    states = dict(read_states(batch.keys()))
    result = FoldedBatch({}, [], [])
    for part in batch.slices(size):
        facts, dead = sort_facts(part, now)
        folded = fold_facts(part, facts, states, now)
        states |= folded.states
        result.states |= folded.states
        result.changes += folded.changes
        result.dead += dead + folded.dead
    return result


def fold_facts(batch: RecordBatch, facts: FactsByKey, states: Mapping[bytes, bytes | None], now: Millis) -> FoldedBatch:
    """Fold each email's facts into its state.

    Raises Undecodable or NewerRecord for a stored state that can't be decoded, which is a bug of ours or a newer
    version's format: continuing without it would lose its content.
    """
    fold = _BatchFold(batch, now, FoldedBatch({}, [], []))
    for key, fact_records in facts.items():
        fold.fold_email(key, fact_records, _stored_state(states.get(key)))
    return fold.folded


StoredState = tuple[EmailState | None, msgspec.Raw | None]
"""A state and its bytes; without bytes where the stored state exceeded its bounds and must be encoded again."""


def _stored_state(stored: bytes | None) -> StoredState:
    if stored is None:
        return None, None
    state, raw = decode_with_raw(EMAIL_STATES, stored)
    if len(stored) <= UNCHECKED_STATE_MAX_BYTES:
        return state, raw
    bounded = bounded_state(state)
    return bounded, raw if bounded is state else None


class _BatchFold(msgspec.Struct, frozen=True):
    batch: RecordBatch
    now: Millis
    folded: FoldedBatch

    def fold_email(self, key: bytes, fact_records: list[FactRecord], before: StoredState) -> None:
        """Fold one email's facts and add the state, the change or a dead letter to the result."""
        state, raw = before
        for fact_record in fact_records:
            state = evolve(state, fact_record.fact)
        assert state is not None
        after = raw if raw is not None and state is before[0] else msgspec.Raw(encode(EMAIL_STATES, state))
        change = self._change(fact_records, state, after)
        if len(change) <= MAX_RECORD_BYTES:
            if after is not raw:
                self.folded.states[key] = bytes(after)
            self.folded.changes.append((key, change))
        elif len(fact_records) > 1:
            self._fold_one_by_one(key, fact_records, before)
        else:
            error = f"the change would be {len(change)} bytes"
            self.folded.dead.append(
                self.batch.consumed_record(fact_records[0].record).dead_letter(self.now, "too-large", error, role=ROLE)
            )

    def _fold_one_by_one(self, key: bytes, fact_records: list[FactRecord], before: StoredState) -> None:
        """Write a change for each fact, where one change for all would be too large."""
        for fact_record in fact_records:
            self.fold_email(key, [fact_record], before)
            if key in self.folded.states:
                before = _stored_state(self.folded.states[key])

    def _change(self, fact_records: list[FactRecord], state: EmailState, encoded_state: msgspec.Raw) -> bytes:
        name, partition = self.batch.topic.name, self.batch.partition
        applied = tuple([EncodedAppliedFact((name, partition, each.record.offset), each.raw) for each in fact_records])
        return encode_parts(EMAIL_CHANGES, EncodedEmailChange(state.email_id, self.now, applied, encoded_state))

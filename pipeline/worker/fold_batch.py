"""A run of one partition's records and the states before it in; states, changes and dead letters out. Pure.

Facts are grouped by email, in the order in which they lie on the log, so that each email costs one
read and one write. A repeat changes no state, and none is written; its change is, because it tells
where the repeat lies. State, change and offset are written together or not at all, so nothing that
was written once has to be written again.

Bytes that are at hand are not made anew: a fact lies in its change as it lies on its topic, and the
state in the change is the state that is stored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.runtime.consumed import ConsumedRecord
from pipeline.worker.fold import evolve
from topics.changes import EncodedAppliedFact, EncodedEmailChange, Fact
from topics.codec import Undecodable, decode_with_raw, encode, encode_parts
from topics.dead_letters import DeadLetter
from topics.join import bounded_state
from topics.record import Millis
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, MAX_RECORD_BYTES, Topic
from topics.states import EmailState

ROLE: Final = "fold"
SLICE_MAX_RECORDS: Final = 1000
"""Records that are decoded, folded and encoded before the next ones are: what one step makes still lies in the
processor's cache when the next step needs it. Through a whole run of 4 MB each step would wait for the memory."""


UNCHECKED_STATE_MAX_BYTES: Final = 8_192
"""A stored state up to this size is taken as it is; a mark of it with too many ids is cut when a fact joins it."""


class RecordBatch(msgspec.Struct, frozen=True):
    """Consecutive records of one partition; each has an `offset`, a `key` and a `value`."""

    topic: Topic
    partition: int
    records: Sequence[Any]

    def consumed_record(self, record: Any) -> ConsumedRecord:
        """One record with its place."""
        return ConsumedRecord.of(self.topic, self.partition, record)

    def consumed_records(self) -> list[ConsumedRecord]:
        """All records with their places."""
        return [self.consumed_record(record) for record in self.records]

    def keys(self) -> list[bytes]:
        """Each key once."""
        return list({record.key for record in self.records if record.key is not None})

    def slices(self, size: int) -> Iterator["RecordBatch"]:
        """The same records, ``size`` at a time."""
        for at in range(0, len(self.records), size):
            yield RecordBatch(self.topic, self.partition, self.records[at : at + size])


class FactRecord(msgspec.Struct, frozen=True, gc=False):
    """A fact and the record that tells it."""

    fact: Fact
    raw: msgspec.Raw
    record: Any


FactsByKey = dict[bytes, list[FactRecord]]


class FoldedBatch(msgspec.Struct, gc=False):
    """What is to be written for a run."""

    states: dict[bytes, bytes]
    """email_id -> the state after the run, encoded; only where it changed."""
    changes: list[tuple[bytes, bytes]]
    """email_id and change, encoded."""
    dead: list[DeadLetter]


def sort_facts(run: RecordBatch, now: Millis) -> tuple[FactsByKey, list[DeadLetter]]:
    """The facts of a run by key; what is no fact, or lies under another's key, as dead letters."""
    facts: FactsByKey = {}
    dead: list[DeadLetter] = []
    topic = run.topic
    for record in run.records:
        try:
            fact, raw = decode_with_raw(topic, record.value)
        except Undecodable as error:
            dead.append(run.consumed_record(record).dead_letter(now, "undecodable", str(error), role=ROLE))
            continue
        key = fact.email_id.encode()
        if key != record.key:
            dead.append(
                run.consumed_record(record).dead_letter(
                    now, "misplaced", "the record's key is not its email_id", role=ROLE
                )
            )
            continue
        told = FactRecord(fact, raw, record)
        if key in facts:
            facts[key].append(told)
        else:
            facts[key] = [told]
    return facts, dead


StateReader = Callable[[Sequence[bytes]], Mapping[bytes, bytes | None]]
"""Keys in, the states that are stored under them out."""


def fold_batch(run: RecordBatch, read: StateReader, now: Millis, size: int = SLICE_MAX_RECORDS) -> FoldedBatch:
    """Read the states of all keys at once, then fold ``size`` records after the other."""
    states = dict(read(run.keys()))
    whole = FoldedBatch({}, [], [])
    for part in run.slices(size):
        facts, dead = sort_facts(part, now)
        folded = fold_facts(part, facts, states, now)
        states |= folded.states
        whole.states |= folded.states
        whole.changes += folded.changes
        whole.dead += dead + folded.dead
    return whole


def fold_facts(run: RecordBatch, facts: FactsByKey, before: Mapping[bytes, bytes | None], now: Millis) -> FoldedBatch:
    """Fold each email's facts into its state.

    A stored state that can't be decoded is our own bug or a newer version's: Undecodable is raised,
    because going on without it would lose what it holds.
    """
    fold = _BatchFold(run, now, FoldedBatch({}, [], []))
    for key, told in facts.items():
        fold.email(key, told, _known(before.get(key)))
    return fold.folded


StoredState = tuple[EmailState | None, msgspec.Raw | None]
"""A state and its bytes; without bytes where the stored state exceeded its bounds and has to be written anew."""


def _known(stored: bytes | None) -> StoredState:
    if stored is None:
        return None, None
    state, raw = decode_with_raw(EMAIL_STATES, stored)
    if len(stored) <= UNCHECKED_STATE_MAX_BYTES:
        return state, raw
    within = bounded_state(state)
    return within, raw if within is state else None


class _BatchFold(msgspec.Struct, frozen=True):
    run: RecordBatch
    now: Millis
    folded: FoldedBatch

    def email(self, key: bytes, told: list[FactRecord], before: StoredState) -> None:
        """One email's facts."""
        state, raw = before
        for one in told:
            state = evolve(state, one.fact)
        assert state is not None
        after = raw if raw is not None and state is before[0] else msgspec.Raw(encode(EMAIL_STATES, state))
        change = self._change(told, state, after)
        if len(change) <= MAX_RECORD_BYTES:
            if after is not raw:
                self.folded.states[key] = bytes(after)
            self.folded.changes.append((key, change))
        elif len(told) > 1:
            self._singly(key, told, before)
        else:
            error = f"the change would be {len(change)} bytes"
            self.folded.dead.append(
                self.run.consumed_record(told[0].record).dead_letter(self.now, "too-large", error, role=ROLE)
            )

    def _singly(self, key: bytes, told: list[FactRecord], before: StoredState) -> None:
        """Facts that don't fit into one change together: a change each."""
        for one in told:
            self.email(key, [one], before)
            if key in self.folded.states:
                before = _known(self.folded.states[key])

    def _change(self, told: list[FactRecord], state: EmailState, after: msgspec.Raw) -> bytes:
        name, partition = self.run.topic.name, self.run.partition
        applied = tuple([EncodedAppliedFact((name, partition, one.record.offset), one.raw) for one in told])
        return encode_parts(EMAIL_CHANGES, EncodedEmailChange(state.email_id, self.now, applied, after))

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

from pipeline.runtime.consumed import Found
from pipeline.worker.fold import evolve
from topics.changes import AppliedBytes, ChangeBytes, Fact
from topics.codec import Undecodable, encode, encode_parts, read
from topics.dead_letters import DeadLetter
from topics.join import bounded
from topics.record import Millis
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, MAX_RECORD_BYTES, Topic
from topics.states import EmailState

ROLE: Final = "fold"
SLICE: Final = 1000
"""Records that are decoded, folded and encoded before the next ones are: what one step makes still lies in the
processor's cache when the next step needs it. Through a whole run of 4 MB each step would wait for the memory."""


UNBOUNDED_BYTES: Final = 8_192
"""A stored state up to this size is taken as it is; a mark of it with too many ids is cut when a fact joins it."""


class Stretch(msgspec.Struct, frozen=True):
    """Consecutive records of one partition; each has an `offset`, a `key` and a `value`."""

    topic: Topic
    partition: int
    records: Sequence[Any]

    def at(self, record: Any) -> Found:
        """One record with its place."""
        return Found.of(self.topic, self.partition, record)

    def found(self) -> list[Found]:
        """All records with their places."""
        return [self.at(record) for record in self.records]

    def keys(self) -> list[bytes]:
        """Each key once."""
        return list({record.key for record in self.records if record.key is not None})

    def slices(self, size: int) -> Iterator["Stretch"]:
        """The same records, ``size`` at a time."""
        for at in range(0, len(self.records), size):
            yield Stretch(self.topic, self.partition, self.records[at : at + size])


class Told(msgspec.Struct, frozen=True, gc=False):
    """A fact and the record that tells it."""

    fact: Fact
    raw: msgspec.Raw
    record: Any


Facts = dict[bytes, list[Told]]


class Folded(msgspec.Struct, gc=False):
    """What is to be written for a run."""

    states: dict[bytes, bytes]
    """email_id -> the state after the run, encoded; only where it changed."""
    changes: list[tuple[bytes, bytes]]
    """email_id and change, encoded."""
    dead: list[DeadLetter]


def sort(run: Stretch, now: Millis) -> tuple[Facts, list[DeadLetter]]:
    """The facts of a run by key; what is no fact, or lies under another's key, as dead letters."""
    facts: Facts = {}
    dead: list[DeadLetter] = []
    topic = run.topic
    for record in run.records:
        try:
            fact, raw = read(topic, record.value)
        except Undecodable as error:
            dead.append(run.at(record).dead(now, "undecodable", str(error), role=ROLE))
            continue
        key = fact.email_id.encode()
        if key != record.key:
            dead.append(run.at(record).dead(now, "misplaced", "the record's key is not its email_id", role=ROLE))
            continue
        told = Told(fact, raw, record)
        if key in facts:
            facts[key].append(told)
        else:
            facts[key] = [told]
    return facts, dead


Read = Callable[[Sequence[bytes]], Mapping[bytes, bytes | None]]
"""Keys in, the states that are stored under them out."""


def fold_all(run: Stretch, read: Read, now: Millis, size: int = SLICE) -> Folded:
    """Read the states of all keys at once, then fold ``size`` records after the other."""
    states = dict(read(run.keys()))
    whole = Folded({}, [], [])
    for part in run.slices(size):
        facts, dead = sort(part, now)
        folded = fold_run(part, facts, states, now)
        states |= folded.states
        whole.states |= folded.states
        whole.changes += folded.changes
        whole.dead += dead + folded.dead
    return whole


def fold_run(run: Stretch, facts: Facts, before: Mapping[bytes, bytes | None], now: Millis) -> Folded:
    """Fold each email's facts into its state.

    A stored state that can't be decoded is our own bug or a newer version's: Undecodable is raised,
    because going on without it would lose what it holds.
    """
    fold = _Fold(run, now, Folded({}, [], []))
    for key, told in facts.items():
        fold.email(key, told, _known(before.get(key)))
    return fold.folded


Known = tuple[EmailState | None, msgspec.Raw | None]
"""A state and its bytes; without bytes where the stored state exceeded its bounds and has to be written anew."""


def _known(stored: bytes | None) -> Known:
    if stored is None:
        return None, None
    state, raw = read(EMAIL_STATES, stored)
    if len(stored) <= UNBOUNDED_BYTES:
        return state, raw
    within = bounded(state)
    return within, raw if within is state else None


class _Fold(msgspec.Struct, frozen=True):
    run: Stretch
    now: Millis
    folded: Folded

    def email(self, key: bytes, told: list[Told], before: Known) -> None:
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
            self.folded.dead.append(self.run.at(told[0].record).dead(self.now, "too-large", error, role=ROLE))

    def _singly(self, key: bytes, told: list[Told], before: Known) -> None:
        """Facts that don't fit into one change together: a change each."""
        for one in told:
            self.email(key, [one], before)
            if key in self.folded.states:
                before = _known(self.folded.states[key])

    def _change(self, told: list[Told], state: EmailState, after: msgspec.Raw) -> bytes:
        name, partition = self.run.topic.name, self.run.partition
        applied = tuple([AppliedBytes((name, partition, one.record.offset), one.raw) for one in told])
        return encode_parts(EMAIL_CHANGES, ChangeBytes(state.email_id, self.now, applied, after))

"""A run of one partition's records and the states before it in; states, changes and dead letters out. Pure.

Facts are grouped by email, in the order in which they lie on the log, so that each email costs one
read and one write. A repeat gives the same state again, and that is written again on purpose: after a
crash it may be the state's or the change's first safe arrival.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from pipeline.fold import evolve
from topics.changes import Applied, EmailChange, Fact
from topics.codec import Undecodable, decode, encode
from topics.dead_letters import DeadLetter
from topics.record import EmailId, Millis, Place
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, MAX_RECORD_BYTES, Topic
from topics.states import EmailState

ROLE: Final = "fold"


class Found(msgspec.Struct, frozen=True, gc=False):
    """A record as it lies on the log."""

    topic: Topic
    place: Place
    key: bytes | None
    value: bytes | None


class Folded(msgspec.Struct, gc=False):
    """What is to be written for a run."""

    states: dict[bytes, bytes]
    """email_id -> the state after the run, encoded."""
    changes: list[tuple[bytes, bytes]]
    """email_id and change, encoded."""
    dead: list[DeadLetter]


Facts = dict[bytes, list[tuple[Found, Fact]]]


def sort(run: list[Found], now: Millis) -> tuple[Facts, list[DeadLetter]]:
    """The facts of a run by key; what is no fact, or lies under another's key, as dead letters."""
    facts: Facts = {}
    dead: list[DeadLetter] = []
    for found in run:
        try:
            fact = decode(found.topic, found.value)
        except Undecodable as error:
            dead.append(dead_letter(found, now, "undecodable", str(error), role=ROLE))
            continue
        key = fact.email_id.encode()
        if key != found.key:
            dead.append(dead_letter(found, now, "misplaced", "the record's key is not its email_id", role=ROLE))
            continue
        facts.setdefault(key, []).append((found, fact))
    return facts, dead


def fold_run(facts: Facts, before: Mapping[bytes, bytes | None], now: Millis) -> Folded:
    """Fold each email's facts into its state.

    A stored state that can't be decoded is our own bug or a newer version's: Undecodable is raised,
    because going on without it would lose what it holds.
    """
    folded = Folded({}, [], [])
    for key, told in facts.items():
        stored = before.get(key)
        state = None if stored is None else decode(EMAIL_STATES, stored)
        _fold_email(key, told, state, now, folded)
    return folded


def _fold_email(
    key: bytes, told: list[tuple[Found, Fact]], before: EmailState | None, now: Millis, folded: Folded
) -> None:
    state = before
    for _, fact in told:
        state = evolve(state, fact)
    assert state is not None
    applied = tuple(Applied(place=found.place, fact=fact) for found, fact in told)
    change = encode(EMAIL_CHANGES, _change(state, applied, now))
    if len(change) <= MAX_RECORD_BYTES:
        folded.states[key] = encode(EMAIL_STATES, state)
        folded.changes.append((key, change))
    elif len(told) > 1:
        _fold_singly(key, told, before, now, folded)
    else:
        error = f"the change would be {len(change)} bytes"
        folded.dead.append(dead_letter(told[0][0], now, "too-large", error, role=ROLE))


def _fold_singly(
    key: bytes, told: list[tuple[Found, Fact]], before: EmailState | None, now: Millis, folded: Folded
) -> None:
    """Facts that don't fit into one change together: a change each."""
    for one in told:
        _fold_email(key, [one], before, now, folded)
        if key in folded.states:
            before = decode(EMAIL_STATES, folded.states[key])


def _change(state: EmailState, applied: tuple[Applied, ...], now: Millis) -> EmailChange:
    return EmailChange(email_id=EmailId(state.email_id), recorded_at=now, facts=applied, state=state)


def dead_letter(
    found: Found, now: Millis, reason: str, error: str, *, role: str, value: bytes | None = None
) -> DeadLetter:
    """A record that goes no further, with its place, and why."""
    return DeadLetter(
        source=found.place,
        recorded_at=now,
        reason=reason,
        error=error[:1000],
        role=role,
        key=found.key,
        value=found.value if value is None else value,
    )

"""What a state means: its status, what is owed, when it last changed. Pure readings, nothing stored.

Every reading looks at :func:`standing`: at what still counts after corrections.

The precedence is the design's: complained > bounced, failed, dropped > clicked > opened >
delivered > deferred, sent > accepted. Only what was heard is claimed: an open does not invent a
delivery.
"""

import functools
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from topics.conversions import Outcome, Word
from topics.ids import id_hash
from topics.join import DETAILS, MARKS, SKETCH, stronger_detail
from topics.record import Millis
from topics.states import Corrected, Detail, EmailState, Mark


class Status(StrEnum):
    """One word for a whole state."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    SENT = "sent"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    DROPPED = "dropped"
    FAILED = "failed"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


class ListedState(StrEnum):
    """`/v1/Email/`'s State."""

    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    COMPLAINT = "complaint"


_PRECEDENCE: Final = (
    ("complained", Status.COMPLAINED),
    ("bounced", Status.BOUNCED),
    ("failed", Status.FAILED),
    ("dropped", Status.DROPPED),
    ("clicked", Status.CLICKED),
    ("opened", Status.OPENED),
    ("delivered", Status.DELIVERED),
)

_LISTED: Final = {
    Status.SENT: ListedState.SENT,
    Status.DEFERRED: ListedState.SENT,
    Status.DELIVERED: ListedState.DELIVERED,
    Status.OPENED: ListedState.DELIVERED,
    Status.CLICKED: ListedState.DELIVERED,
    Status.DROPPED: ListedState.BOUNCED,
    Status.FAILED: ListedState.BOUNCED,
    Status.BOUNCED: ListedState.BOUNCED,
    Status.COMPLAINED: ListedState.COMPLAINT,
}

# In the order in which one email's words are told where several are first seen together.
_OWED_BY: Final = (
    ("delivered", Word.DELIVERED),
    ("opened", Word.OPEN),
    ("clicked", Word.CLICK),
    ("bounced", Word.BOUNCE),
    ("dropped", Word.DROPPED),
    ("failed", Word.FAILED),
    ("complained", Word.SPAM),
)

_ENDS: Final = frozenset({Outcome.DELIVERED, Outcome.REFUSED, Outcome.GIVEN_UP})


def standing(state: EmailState) -> EmailState:
    """The state without what was read wrong: marks without their corrected ids, details of events that count.

    Exact for which marks there are and how many events they have. Approximated, because a state keeps extremes
    instead of events: the times of a mark that lost some of its events stay what they were; of several details the
    state keeps the strongest, so where that one is gone, only details that came with corrections take its place;
    and of a kind that was heard of more than :data:`~topics.join.SKETCH` times, the smallest ids speak for all.
    """
    return _standing(state) if state.corrected else state


def _standing(state: EmailState) -> EmailState:
    now = {one.id: one for one in sorted(state.corrected, key=lambda one: one.revision)}
    changed: dict[str, Mark | Detail | None] = {}
    for name in MARKS:
        mark = getattr(state, name)
        if mark is not None:
            ids = tuple([one for one in mark.ids if one not in now or now[one].mark == name])
            if ids != mark.ids:
                changed[name] = msgspec.structs.replace(mark, ids=ids) if ids else None
    for name, mark_name in DETAILS.items():
        told = getattr(state, name)
        if told is not None and id_hash(told.event_id) in now:
            changed[name] = _strongest(now.values(), mark_name)
    return msgspec.structs.replace(state, **changed)


def _strongest(corrected: Iterable[Corrected], mark: str) -> Detail | None:
    details = [one.detail for one in corrected if one.mark == mark and one.detail is not None]
    return functools.reduce(stronger_detail, details) if details else None


def status(state: EmailState) -> Status:
    """The strongest word that the facts allow."""
    state = standing(state)
    for name, word in _PRECEDENCE:
        if getattr(state, name) is not None:
            return word
    return _in_transit(state)


def _in_transit(state: EmailState) -> Status:
    """Custody ends our deferrals, and who took custody may defer in turn: no clock is asked which came last."""
    if state.delayed is not None:
        return Status.DEFERRED
    if state.sent is not None or state.queued is not None:
        return Status.SENT
    if state.deferred is not None:
        return Status.DEFERRED
    return Status.ACCEPTED if state.accepted is not None else Status.UNKNOWN


def listed_state(state: EmailState) -> ListedState | None:
    """`/v1/Email/`'s State; None while nobody took custody, which that listing doesn't show."""
    word = status(state)
    if word is Status.DEFERRED and not _in_custody(standing(state)):
        return None
    return _LISTED.get(word)


def _in_custody(state: EmailState) -> bool:
    """Return whether somebody took the email: who has it may defer it, too, and goes on trying."""
    return any(mark is not None for mark in (state.sent, state.queued, state.delayed))


def owed(state: EmailState) -> tuple[Word, ...]:
    """Every word that the facts make true, in the order in which they are told together.

    Grow-only, but for corrections: a word whose every event was read wrong is owed no more. If it is
    booked, it stays booked, and what was told can't be untold. Whether anybody wants to be told is the
    destination's affair; nothing is owed before the request (and with it the activity) is known.
    """
    return ever_owed(standing(state))


def ever_owed(state: EmailState) -> tuple[Word, ...]:
    """What was owed at any time, corrected since or not: what may be booked."""
    if state.request is None:
        return ()
    return tuple(word for name, word in _OWED_BY if getattr(state, name) is not None)


def unsettled(state: EmailState) -> tuple[Word, ...]:
    """What is owed and not yet told, refused or given up."""
    return tuple(word for word in owed(state) if word not in state.settled or state.settled[word].outcome not in _ENDS)


def updated_at(state: EmailState) -> Millis:
    """When the state last became another one: the latest *first* evidence of any kind, our clock.

    A repeat of a known kind moves nothing, so a provider's duplicates don't touch `LastUpdated`; a
    correction does.
    """
    heard = max((mark.recorded for mark in _marks(standing(state))), default=0)
    return max(heard, corrected_at(state)) if state.corrected else heard


def corrected_at(state: EmailState) -> Millis:
    """When one of its events was last read anew; 0 where none ever was."""
    return max((one.recorded for one in state.corrected), default=0)


def heard_at(state: EmailState) -> Millis:
    """When something was last heard of it, as far as the state remembers: repeats and settled debts are news, too."""
    marks = max((max(mark.last, mark.recorded) for mark in _marks(state)), default=0)
    return max(marks, corrected_at(state), max((end.at for end in state.settled.values()), default=0))


def awaits_dispatch(state: EmailState) -> bool:
    """Whether somebody asked for it, and nobody took custody yet or said that there will be nothing to take."""
    if state.request is None:
        return False
    return status(state) in {Status.ACCEPTED, Status.DEFERRED} and standing(state).delayed is None


def sent_at(state: EmailState) -> Millis | None:
    """Return when somebody took custody, by the source's clock; else when we gave up or dropped it.

    None while we only try: nothing was sent.
    """
    state = standing(state)
    for mark in (state.sent, state.queued, state.delayed, state.dropped, state.failed, state.bounced):
        if mark is not None:
            return mark.first
    known = state.accepted is not None and listed_state(state) is not None
    return state.accepted.first if known and state.accepted is not None else None


def count(state: EmailState, kind: str) -> tuple[int, bool]:
    """How many distinct events of ``kind`` (a mark's name) the state saw, and whether that is exact."""
    mark, all_of_it = getattr(standing(state), kind), getattr(state, kind)
    seen = 0 if mark is None else len(mark.ids)
    return seen, all_of_it is None or len(all_of_it.ids) < SKETCH


def _marks(state: EmailState) -> list[Mark]:
    return [mark for name in MARKS if (mark := getattr(state, name)) is not None]

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

from topics.conversions import ConversionOutcome, ConversionWord
from topics.ids import id_hash
from topics.join import DETAILS, MARKS, MAX_IDS_PER_MARK, stronger_detail
from topics.record import Millis
from topics.states import CorrectedEvent, EmailState, EventDetail, Mark


class EmailStatus(StrEnum):
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
    ("complained", EmailStatus.COMPLAINED),
    ("bounced", EmailStatus.BOUNCED),
    ("failed", EmailStatus.FAILED),
    ("dropped", EmailStatus.DROPPED),
    ("clicked", EmailStatus.CLICKED),
    ("opened", EmailStatus.OPENED),
    ("delivered", EmailStatus.DELIVERED),
)

_LISTED_STATES: Final = {
    EmailStatus.SENT: ListedState.SENT,
    EmailStatus.DEFERRED: ListedState.SENT,
    EmailStatus.DELIVERED: ListedState.DELIVERED,
    EmailStatus.OPENED: ListedState.DELIVERED,
    EmailStatus.CLICKED: ListedState.DELIVERED,
    EmailStatus.DROPPED: ListedState.BOUNCED,
    EmailStatus.FAILED: ListedState.BOUNCED,
    EmailStatus.BOUNCED: ListedState.BOUNCED,
    EmailStatus.COMPLAINED: ListedState.COMPLAINT,
}

# In the order in which one email's words are told where several are first seen together.
_WORD_OF_MARK: Final = (
    ("delivered", ConversionWord.DELIVERED),
    ("opened", ConversionWord.OPEN),
    ("clicked", ConversionWord.CLICK),
    ("bounced", ConversionWord.BOUNCE),
    ("dropped", ConversionWord.DROPPED),
    ("failed", ConversionWord.FAILED),
    ("complained", ConversionWord.SPAM),
)

_SETTLING_OUTCOMES: Final = frozenset(
    {ConversionOutcome.DELIVERED, ConversionOutcome.REFUSED, ConversionOutcome.GIVEN_UP}
)


def effective_state(state: EmailState) -> EmailState:
    """The state without what was read wrong: marks without their corrected ids, details of events that count.

    Exact for which marks there are and how many events they have. Approximated, because a state keeps extremes
    instead of events: the times of a mark that lost some of its events stay what they were; of several details the
    state keeps the strongest, so where that one is gone, only details that came with corrections take its place;
    and of a kind that was heard of more than :data:`~topics.join.SKETCH` times, the smallest ids speak for all.
    """
    return _standing(state) if state.corrected else state


def _standing(state: EmailState) -> EmailState:
    now = {one.id: one for one in sorted(state.corrected, key=lambda one: one.revision)}
    changed: dict[str, Mark | EventDetail | None] = {}
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


def _strongest(corrected: Iterable[CorrectedEvent], mark: str) -> EventDetail | None:
    details = [one.detail for one in corrected if one.mark == mark and one.detail is not None]
    return functools.reduce(stronger_detail, details) if details else None


def email_status(state: EmailState) -> EmailStatus:
    """The strongest word that the facts allow."""
    state = effective_state(state)
    for name, word in _PRECEDENCE:
        if getattr(state, name) is not None:
            return word
    return _in_transit(state)


def _in_transit(state: EmailState) -> EmailStatus:
    """Custody ends our deferrals, and who took custody may defer in turn: no clock is asked which came last."""
    if state.delayed is not None:
        return EmailStatus.DEFERRED
    if state.sent is not None or state.queued is not None:
        return EmailStatus.SENT
    if state.deferred is not None:
        return EmailStatus.DEFERRED
    return EmailStatus.ACCEPTED if state.accepted is not None else EmailStatus.UNKNOWN


def listed_state(state: EmailState) -> ListedState | None:
    """`/v1/Email/`'s State; None while nobody took custody, which that listing doesn't show."""
    word = email_status(state)
    if word is EmailStatus.DEFERRED and not _in_custody(effective_state(state)):
        return None
    return _LISTED_STATES.get(word)


def _in_custody(state: EmailState) -> bool:
    """Return whether somebody took the email: who has it may defer it, too, and goes on trying."""
    return any(mark is not None for mark in (state.sent, state.queued, state.delayed))


def owed_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """Every word that the facts make true, in the order in which they are told together.

    Grow-only, but for corrections: a word whose every event was read wrong is owed no more. If it is
    booked, it stays booked, and what was told can't be untold. Whether anybody wants to be told is the
    destination's affair; nothing is owed before the request (and with it the activity) is known.
    """
    return ever_owed_words(effective_state(state))


def ever_owed_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """What was owed at any time, corrected since or not: what may be booked."""
    if state.request is None:
        return ()
    return tuple(word for name, word in _WORD_OF_MARK if getattr(state, name) is not None)


def unsettled_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """What is owed and not yet told, refused or given up."""
    return tuple(
        word
        for word in owed_words(state)
        if word not in state.settled or state.settled[word].outcome not in _SETTLING_OUTCOMES
    )


def updated_at(state: EmailState) -> Millis:
    """When the state last became another one: the latest *first* evidence of any kind, our clock.

    A repeat of a known kind moves nothing, so a provider's duplicates don't touch `LastUpdated`; a
    correction does.
    """
    heard = max((mark.recorded for mark in _marks(effective_state(state))), default=0)
    return max(heard, corrected_at(state)) if state.corrected else heard


def corrected_at(state: EmailState) -> Millis:
    """When one of its events was last read anew; 0 where none ever was."""
    return max((one.recorded for one in state.corrected), default=0)


def last_activity_at(state: EmailState) -> Millis:
    """When something was last heard of it, as far as the state remembers: repeats and settled debts are news, too."""
    marks = max((max(mark.last, mark.recorded) for mark in _marks(state)), default=0)
    return max(marks, corrected_at(state), max((end.at for end in state.settled.values()), default=0))


def awaits_dispatch(state: EmailState) -> bool:
    """Whether somebody asked for it, and nobody took custody yet or said that there will be nothing to take."""
    if state.request is None:
        return False
    return (
        email_status(state) in {EmailStatus.ACCEPTED, EmailStatus.DEFERRED} and effective_state(state).delayed is None
    )


def sent_at(state: EmailState) -> Millis | None:
    """Return when somebody took custody, by the source's clock; else when we gave up or dropped it.

    None while we only try: nothing was sent.
    """
    state = effective_state(state)
    for mark in (state.sent, state.queued, state.delayed, state.dropped, state.failed, state.bounced):
        if mark is not None:
            return mark.first
    known = state.accepted is not None and listed_state(state) is not None
    return state.accepted.first if known and state.accepted is not None else None


def count_events(state: EmailState, kind: str) -> tuple[int, bool]:
    """How many distinct events of ``kind`` (a mark's name) the state saw, and whether that is exact."""
    mark, all_of_it = getattr(effective_state(state), kind), getattr(state, kind)
    seen = 0 if mark is None else len(mark.ids)
    return seen, all_of_it is None or len(all_of_it.ids) < MAX_IDS_PER_MARK


def _marks(state: EmailState) -> list[Mark]:
    return [mark for name in MARKS if (mark := getattr(state, name)) is not None]

"""Readings of a state: its status, the conversions it owes, when it last changed. Pure; nothing here is stored.

Every reading uses :func:`effective_state`, which leaves out what corrections have replaced.

The precedence of statuses is: complained > bounced, failed, dropped > clicked > opened > delivered > deferred, sent >
accepted. Only reported facts count: an open does not imply a delivery.
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
    """The status of an email."""

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

# In the order in which one email's words are sent if several become owed together.
_WORD_OF_MARK: Final = (
    ("delivered", ConversionWord.DELIVERED),
    ("opened", ConversionWord.OPEN),
    ("clicked", ConversionWord.CLICK),
    ("bounced", ConversionWord.BOUNCE),
    ("dropped", ConversionWord.DROPPED),
    ("failed", ConversionWord.FAILED),
    ("complained", ConversionWord.SPAM),
)
_MARK_OF_WORD: Final = {word: name for name, word in _WORD_OF_MARK}

_SETTLING_OUTCOMES: Final = frozenset(
    {ConversionOutcome.DELIVERED, ConversionOutcome.REFUSED, ConversionOutcome.GIVEN_UP}
)


def effective_state(state: EmailState) -> EmailState:
    """Return the state without corrected events: marks without their ids, details of events that still count.

    Exact are the set of marks and their numbers of events. Approximate, because a state keeps extremes instead of
    events, are: the times of a mark that lost some of its events, which stay unchanged; the detail, because only the
    strongest one is kept, so that only details of corrections can replace it; and marks with more than
    :data:`~topics.join.MAX_IDS_PER_MARK` events, of which only the smallest ids are known.
    """
    return _without_corrected(state) if state.corrected else state


def _without_corrected(state: EmailState) -> EmailState:
    corrections = {each.id: each for each in sorted(state.corrected, key=lambda each: each.revision)}
    changed: dict[str, Mark | EventDetail | None] = {}
    for name in MARKS:
        mark = getattr(state, name)
        if mark is not None:
            ids = tuple([id_ for id_ in mark.ids if id_ not in corrections or corrections[id_].mark == name])
            if ids != mark.ids:
                changed[name] = msgspec.structs.replace(mark, ids=ids) if ids else None
    for name, mark_name in DETAILS.items():
        detail = getattr(state, name)
        if detail is not None and id_hash(detail.event_id) in corrections:
            changed[name] = _strongest_detail(corrections.values(), mark_name)
    return msgspec.structs.replace(state, **changed)


def _strongest_detail(corrections: Iterable[CorrectedEvent], mark: str) -> EventDetail | None:
    details = [each.detail for each in corrections if each.mark == mark and each.detail is not None]
    return functools.reduce(stronger_detail, details) if details else None


def email_status(state: EmailState) -> EmailStatus:
    """Return the status with the highest precedence that the facts support."""
    state = effective_state(state)
    for name, status in _PRECEDENCE:
        if getattr(state, name) is not None:
            return status
    return _status_in_transit(state)


def _status_in_transit(state: EmailState) -> EmailStatus:
    """Return the status before delivery, without comparing clocks.

    Acceptance by the provider ends our own deferrals; after it the provider may defer.
    """
    if state.delayed is not None:
        return EmailStatus.DEFERRED
    if state.sent is not None or state.queued is not None:
        return EmailStatus.SENT
    if state.deferred is not None:
        return EmailStatus.DEFERRED
    return EmailStatus.ACCEPTED if state.accepted is not None else EmailStatus.UNKNOWN


def listed_state(state: EmailState) -> ListedState | None:
    """Return `/v1/Email/`'s State; None until a provider accepts the email, because the listing omits it before."""
    status = email_status(state)
    if status is EmailStatus.DEFERRED and not _is_accepted_by_provider(effective_state(state)):
        return None
    return listed_state_of(status)


def listed_state_of(status: EmailStatus) -> ListedState | None:
    """Return the state of a listed email with this status; None for a status that is never listed."""
    return _LISTED_STATES.get(status)


def _is_accepted_by_provider(state: EmailState) -> bool:
    """Return whether a provider accepted the email; it may still defer it and keep trying."""
    return any(mark is not None for mark in (state.sent, state.queued, state.delayed))


def mark_name(word: ConversionWord) -> str:
    """Return the name of the state's mark for which this word is owed."""
    return _MARK_OF_WORD[word]


def owed_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """Return the words that the facts support, in the order in which they are sent.

    Words are only added, except by corrections: a word whose events were all corrected is no longer owed. If its job
    exists, it stays, and a sent conversion can't be recalled. Nothing is owed before the request, and with it the
    activity, is known. Whether conversions are sent at all depends on the brand's destination.
    """
    return ever_owed_words(effective_state(state))


def ever_owed_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """Return the words that were owed at any time, before or after corrections; only for these may jobs exist."""
    if state.request is None:
        return ()
    return tuple(word for name, word in _WORD_OF_MARK if getattr(state, name) is not None)


def unsettled_words(state: EmailState) -> tuple[ConversionWord, ...]:
    """Return the owed words that were not yet delivered, refused or given up."""
    return tuple(
        word
        for word in owed_words(state)
        if word not in state.settled or state.settled[word].outcome not in _SETTLING_OUTCOMES
    )


def updated_at(state: EmailState) -> Millis:
    """Return when the state last changed by our clock: the latest of each kind's *first* event, and of corrections.

    A repeat of a known kind changes nothing, so that a provider's duplicates don't change `LastUpdated`.
    """
    last_mark_at = max((mark.recorded for mark in _marks(effective_state(state))), default=0)
    return max(last_mark_at, corrected_at(state)) if state.corrected else last_mark_at


def corrected_at(state: EmailState) -> Millis:
    """Return the time of the last correction; 0 if there is none."""
    return max((correction.recorded for correction in state.corrected), default=0)


def last_activity_at(state: EmailState) -> Millis:
    """Return the time of the email's last known activity; repeats and settled conversions count, too."""
    marks = max((max(mark.last, mark.recorded) for mark in _marks(state)), default=0)
    return max(marks, corrected_at(state), max((end.at for end in state.settled.values()), default=0))


def awaits_dispatch(state: EmailState) -> bool:
    """Return whether the email was requested and is neither accepted by a provider nor finally not sent."""
    if state.request is None:
        return False
    return (
        email_status(state) in {EmailStatus.ACCEPTED, EmailStatus.DEFERRED} and effective_state(state).delayed is None
    )


def sent_at(state: EmailState) -> Millis | None:
    """Return when a provider accepted the email, by the source's clock; otherwise when it was dropped or failed.

    None while it is not sent.
    """
    state = effective_state(state)
    for mark in (state.sent, state.queued, state.delayed, state.dropped, state.failed, state.bounced):
        if mark is not None:
            return mark.first
    is_listed = state.accepted is not None and listed_state(state) is not None
    return state.accepted.first if is_listed and state.accepted is not None else None


def count_events(state: EmailState, kind: str) -> tuple[int, bool]:
    """Return the number of distinct events of ``kind`` (a mark's name), and whether that number is exact."""
    effective_mark, mark = getattr(effective_state(state), kind), getattr(state, kind)
    count = 0 if effective_mark is None else len(effective_mark.ids)
    return count, mark is None or len(mark.ids) < MAX_IDS_PER_MARK


def _marks(state: EmailState) -> list[Mark]:
    return [mark for name in MARKS if (mark := getattr(state, name)) is not None]

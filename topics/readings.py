"""What a state means: its status, what is owed, when it last changed. Pure readings, nothing stored.

The precedence is the design's: complained > bounced, failed, dropped > clicked > opened >
delivered > deferred, sent > accepted. Only what was heard is claimed: an open does not invent a
delivery.
"""

from enum import StrEnum
from typing import Final

from topics.conversions import Outcome, Word
from topics.join import MARKS, SKETCH, SKETCHED
from topics.record import Millis
from topics.states import EmailState, Mark


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


def status(state: EmailState) -> Status:
    """The strongest word that the facts allow."""
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
    return _LISTED.get(status(state))


def owed(state: EmailState) -> tuple[Word, ...]:
    """Every word that the facts make true, in the order in which they are told together.

    Grow-only, because marks are. Whether anybody wants to be told is the destination's affair;
    nothing is owed before the request (and with it the activity) is known.
    """
    if state.request is None:
        return ()
    return tuple(word for name, word in _OWED_BY if getattr(state, name) is not None)


def unsettled(state: EmailState) -> tuple[Word, ...]:
    """What is owed and not yet told, refused or given up."""
    return tuple(word for word in owed(state) if word not in state.settled or state.settled[word].outcome not in _ENDS)


def updated_at(state: EmailState) -> Millis:
    """When the state last became another one: the latest *first* evidence of any kind, our clock.

    A repeat of a known kind moves nothing, so a provider's duplicates don't touch `LastUpdated`.
    """
    return max((mark.recorded for mark in _marks(state)), default=0)


def sent_at(state: EmailState) -> Millis | None:
    """When somebody took custody, by the source's clock; else when we gave up or dropped it."""
    for mark in (state.sent, state.queued, state.delayed, state.deferred, state.dropped, state.failed, state.bounced):
        if mark is not None:
            return mark.first
    return state.accepted.first if state.accepted is not None else None


def count(state: EmailState, kind: str) -> tuple[int, bool]:
    """How many distinct events of ``kind`` (a mark's name) the state saw, and whether that is exact."""
    mark = getattr(state, kind)
    seen = 0 if mark is None else len(mark.ids)
    return seen, kind not in SKETCHED or seen < SKETCH


def _marks(state: EmailState) -> list[Mark]:
    return [mark for name in MARKS if (mark := getattr(state, name)) is not None]

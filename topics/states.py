"""`email-states`: all that is known of one email, as a join-semilattice.

A state is a pure function of the **set** of facts seen. Every field is built from minima, maxima
and bounded unions, so two partial states of one email always have a least upper bound:
:func:`topics.join.merge`. What the state *means* (status, debts, last update) is read from it by
:mod:`topics.readings`; nothing that can be derived is stored.
"""

import msgspec

from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import BounceClass
from topics.record import EmailId, Millis, Record, RecordPart
from topics.requests import SendRequest


class Mark(RecordPart, array_like=True, frozen=True, kw_only=True):
    """When one kind of fact was heard, and how often.

    ``first`` and ``last`` order by the source's clock, clamped to ours so that a clock in the
    future cannot win; ``recorded`` is when the earliest evidence reached the log. ``ids`` holds
    sorted 63-bit hashes of the event ids, the K smallest (see :data:`topics.join.SKETCH`).
    """

    first: Millis
    last: Millis
    recorded: Millis
    ids: tuple[int, ...]


class EventDetail(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The words that came with a bounce, complaint, drop or failure; which one stays: :mod:`topics.join`."""

    at: Millis
    recorded: Millis
    event_id: str
    type: str = ""
    subtype: str = ""
    code: int = 0
    enhanced: str = ""
    text: str = ""
    provider: str = ""
    bounce_class: BounceClass | None = None


class CorrectedEvent(RecordPart, array_like=True, frozen=True, kw_only=True):
    """One event read anew: what it was, what it counts as now. An id's highest revision stands."""

    was: str
    mark: str
    """Empty: it counts as nothing any more."""
    id: int
    """The hash of the event's id, as in the marks."""
    revision: int
    recorded: Millis
    """When it was corrected."""
    detail: EventDetail | None = None
    """The words that came with it, as it is read now."""


class Settlement(RecordPart, array_like=True, frozen=True, kw_only=True):
    """How the debt of one conversion word ended."""

    outcome: ConversionOutcome
    at: Millis


class EmailState(Record, tag="email-state/1", frozen=True, kw_only=True):
    """Everything known of one email. Absent means not heard of."""

    email_id: EmailId
    request: SendRequest | None = None
    accepted: Mark | None = None
    queued: Mark | None = None
    sent: Mark | None = None
    deferred: Mark | None = None
    """Nobody took custody yet; we try again."""
    delayed: Mark | None = None
    """Who took custody tries again."""
    delivered: Mark | None = None
    opened: Mark | None = None
    opened_machine: Mark | None = None
    clicked: Mark | None = None
    clicked_machine: Mark | None = None
    bounced: Mark | None = None
    complained: Mark | None = None
    dropped: Mark | None = None
    failed: Mark | None = None
    unsubscribed: Mark | None = None
    replied: Mark | None = None
    unknown: Mark | None = None
    bounce: EventDetail | None = None
    complaint: EventDetail | None = None
    drop: EventDetail | None = None
    failure: EventDetail | None = None
    provider_ids: tuple[tuple[str, str], ...] = ()
    """Sorted pairs (provider, provider message id), at most :data:`topics.join.PROVIDER_IDS`."""
    settled: dict[ConversionWord, Settlement] = msgspec.field(default_factory=dict)
    corrected: tuple[CorrectedEvent, ...] = ()
    """Sorted by (was, mark, id). Marks and details keep what was corrected, too, because they only grow;
    what still counts is said by :func:`topics.readings.standing`."""

"""`email-states`: the folded state of one email, as a join-semilattice.

A state is a pure function of the **set** of its facts. Every field is built from minima, maxima and bounded unions, so
two partial states of one email always have a least upper bound: :func:`topics.join.merge`. :mod:`topics.readings`
computes status, owed conversions and last update from it; nothing that can be computed is stored.
"""

import msgspec

from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import BounceClass
from topics.record import EmailId, Millis, Record, RecordPart
from topics.requests import SendRequest


class Mark(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The times and number of one kind of fact.

    ``first`` and ``last`` are times by the source's clock, at most our time of recording, so that a clock in the
    future cannot win; ``recorded`` is the time at which the first such fact was recorded. ``ids`` holds the smallest
    63-bit hashes of the event ids, sorted (see :data:`topics.join.MAX_IDS_PER_MARK`).
    """

    first: Millis
    last: Millis
    recorded: Millis
    ids: tuple[int, ...]


class EventDetail(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The data of a bounce, complaint, drop or failure; :mod:`topics.join` decides which of several is kept."""

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
    """A corrected event: the marks it counted for and counts for now. An id's highest revision counts."""

    was: str
    mark: str
    """The mark it counts for now; empty for none."""
    id: int
    """The hash of the event's id, as in the marks."""
    revision: int
    recorded: Millis
    """Time of the correction."""
    detail: EventDetail | None = None
    """The corrected event's detail."""


class Settlement(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The final outcome of one conversion word."""

    outcome: ConversionOutcome
    at: Millis


class EmailState(Record, tag="email-state/1", frozen=True, kw_only=True):
    """All facts about one email; a field is None while no such fact is known."""

    email_id: EmailId
    request: SendRequest | None = None
    accepted: Mark | None = None
    queued: Mark | None = None
    sent: Mark | None = None
    deferred: Mark | None = None
    """No provider has accepted the email yet; we try again."""
    delayed: Mark | None = None
    """The provider that accepted the email tries again."""
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
    """Sorted pairs (provider, provider message id), at most :data:`topics.join.MAX_PROVIDER_IDS`."""
    settled: dict[ConversionWord, Settlement] = msgspec.field(default_factory=dict)
    corrected: tuple[CorrectedEvent, ...] = ()
    """Corrections sorted by (was, mark, id). Marks and details keep corrected events, too, because they only grow;
    :func:`topics.readings.effective_state` leaves them out."""

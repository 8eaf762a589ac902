"""`delivery-events`: normalized events with the provider's own data, without addresses.

An event is identified by its id, and its first mapping may be wrong. A corrected mapping appends it again under the
same id with `corrects`: only the highest revision of an id counts, in whatever order the revisions come.
"""

from enum import StrEnum

import msgspec

from topics.record import EmailId, Millis, Record, RecordPart


class EventKind(StrEnum):
    """The kinds of events that providers, the pixel and links report."""

    QUEUED = "queued"
    SENT = "sent"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    DROPPED = "dropped"
    FAILED = "failed"
    UNSUBSCRIBED = "unsubscribed"
    REPLIED = "replied"
    UNKNOWN = "unknown"


class BounceClass(StrEnum):
    """The class of a bounce: hard if the address will never work, soft if it may work later."""

    HARD = "hard"
    SOFT = "soft"


class Correction(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The revision of a corrected event; an event as it was first read has none."""

    revision: int
    """Number from 1; the highest one counts."""
    was: str
    """The mark that the event counted for before (:mod:`topics.states`); empty for none."""
    at: Millis
    """Time of the correction by our clock; the event's `recorded_at` stays unchanged."""


class DeliveryEvent(Record, tag="delivery-event/1", frozen=True, kw_only=True):
    """A fact about one email, reported by a provider, the pixel, a link or a bounced mail."""

    email_id: EmailId
    event_id: str
    kind: EventKind
    occurred_at: Millis
    """Time by the provider's clock, verbatim; may be in the future."""
    recorded_at: Millis
    provider: str
    machine: str = ""
    """Reason why an open or click is attributed to a machine; empty for a human's."""
    bounce_class: BounceClass | None = None
    bounce_type: str = ""
    """The provider's own type and subtype, such as ``blocked`` / ``5.7.1``."""
    bounce_subtype: str = ""
    code: int = 0
    enhanced: str = ""
    text: str = ""
    url: str = ""
    user_agent: str = ""
    provider_message_id: str = ""
    native: msgspec.Raw = msgspec.Raw(b"null")
    """The provider's own event as JSON, without the address."""
    corrects: Correction | None = None
    claimed_email_id: EmailId = EmailId("")
    """The email that an event on `uncorrelated-events` names without proof; it counts once an ack shows that its
    provider got this email. Empty on `delivery-events`."""


class Retraction(Record, tag="retraction/1", frozen=True, kw_only=True):
    """The withdrawal of an event: a corrected mapping gives it another id.

    It may come before the event that it retracts.
    """

    email_id: EmailId
    event_id: str
    """Id of the retracted event."""
    occurred_at: Millis
    recorded_at: Millis
    provider: str
    corrects: Correction

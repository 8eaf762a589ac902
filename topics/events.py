"""`delivery-events`: one normalized event and the provider's own words; no address.

An event is known by its id, and what it was read as may turn out to be wrong. Read anew by a
corrected mapping it is told again under the same id, and says so (`corrects`): the highest revision
of an id is what the event counts as, and nothing else of that id counts, whatever comes in which order.
"""

from enum import StrEnum

import msgspec

from topics.record import EmailId, Millis, Record, RecordPart


class EventKind(StrEnum):
    """What can become of an email once it was handed over."""

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
    """Hard: the address will not work. Soft: it may, another time."""

    HARD = "hard"
    SOFT = "soft"


class Correction(RecordPart, array_like=True, frozen=True, kw_only=True):
    """Which reading of an event this is; an event as it was first read has none."""

    revision: int
    """From 1 on. The highest stands."""
    was: str
    """What it counted as until then: a mark's name (:mod:`topics.states`), empty for nothing."""
    at: Millis
    """When we read it anew, our clock; the event's `recorded_at` stays what it was."""


class DeliveryEvent(Record, tag="delivery-event/1", frozen=True, kw_only=True):
    """A fact about one email, told by a provider, the pixel, a link or a bounced mail."""

    email_id: EmailId
    event_id: str
    kind: EventKind
    occurred_at: Millis
    """The provider's clock, verbatim; may be in the future."""
    recorded_at: Millis
    provider: str
    machine: str = ""
    """Why an open or click is a machine's; empty for a human's."""
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


class Retraction(Record, tag="retraction/1", frozen=True, kw_only=True):
    """What was told under this id is no event of this email: read anew, it goes by another id.

    It may come before what it retracts.
    """

    email_id: EmailId
    event_id: str
    """The retracted event's."""
    occurred_at: Millis
    recorded_at: Millis
    provider: str
    corrects: Correction

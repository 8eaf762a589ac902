"""`delivery-events`: one normalized event and the provider's own words; no address."""

from enum import StrEnum

import msgspec

from topics.record import EmailId, Millis, Record


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

"""`conversion-results`: the result of each attempt to send a conversion to Fast Track; the emitter writes it."""

from enum import StrEnum

from topics.record import EmailId, Millis, Record


class ConversionWord(StrEnum):
    """Fast Track's `delivery_status`."""

    DELIVERED = "delivered"
    OPEN = "open"
    CLICK = "click"
    SPAM = "spam"
    BOUNCE = "bounce"
    DROPPED = "dropped"
    FAILED = "failed"


class ConversionOutcome(StrEnum):
    """The outcome of an attempt: retrying and replayed leave the conversion pending, the other three settle it."""

    RETRYING = "retrying"
    REPLAYED = "replayed"
    GIVEN_UP = "given_up"
    REFUSED = "refused"
    DELIVERED = "delivered"


class ConversionResult(Record, tag="conversion-result/1", frozen=True, kw_only=True):
    """The result of one attempt to send one word of one email."""

    email_id: EmailId
    event_id: str
    word: ConversionWord
    outcome: ConversionOutcome
    occurred_at: Millis
    recorded_at: Millis
    destination: str
    attempt: int
    status: int = 0
    """HTTP status; 0 if there was no answer."""
    detail: str = ""

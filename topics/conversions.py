"""`conversion-results`: what became of telling Fast Track, attempt by attempt."""

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
    """Retrying and replayed leave the debt standing; the other three settle it."""

    RETRYING = "retrying"
    REPLAYED = "replayed"
    GIVEN_UP = "given_up"
    REFUSED = "refused"
    DELIVERED = "delivered"


class ConversionResult(Record, tag="conversion-result/1", frozen=True, kw_only=True):
    """The outcome of one attempt to tell one word of one email."""

    email_id: EmailId
    event_id: str
    word: ConversionWord
    outcome: ConversionOutcome
    occurred_at: Millis
    recorded_at: Millis
    destination: str
    attempt: int
    status: int = 0
    """HTTP status; 0 where nobody answered."""
    detail: str = ""

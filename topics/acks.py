"""`provider-acks`: the results of handing an email to a provider; dispatch writes them, the fold reads them."""

from topics.record import EmailId, Millis, Record


class _Ack(Record, frozen=True, kw_only=True):
    email_id: EmailId
    event_id: str
    occurred_at: Millis
    recorded_at: Millis
    provider: str = ""
    attempt: int = 1
    code: int = 0
    """SMTP reply code (RFC 5321 §4.2) or HTTP status; 0 if there was no answer."""
    enhanced: str = ""
    """Enhanced status code (RFC 3463), such as ``5.1.1``."""
    text: str = ""
    """The provider's own words."""


class Acked(_Ack, tag="acked/1", frozen=True, kw_only=True):
    """The provider or the first relay accepted the email (SMTP 250, API 2xx)."""

    provider_message_id: str = ""
    means_delivered: bool = False
    """True if this provider's 250 is the final delivery (configured per provider)."""


class Deferred(_Ack, tag="deferred/1", frozen=True, kw_only=True):
    """Refused temporarily (SMTP 4xx, no connection); another attempt is scheduled."""

    next_attempt_at: Millis


class Rejected(_Ack, tag="rejected/1", frozen=True, kw_only=True):
    """Refused permanently by the recipient's server (SMTP 5xx on RCPT or DATA)."""


class Dropped(_Ack, tag="dropped/1", frozen=True, kw_only=True):
    """Not sent because of a suppression; no server was contacted."""

    reason: str


class Failed(_Ack, tag="failed/1", frozen=True, kw_only=True):
    """Could not be sent: refused content, or given up after deferrals."""

    reason: str


Ack = Acked | Deferred | Rejected | Dropped | Failed

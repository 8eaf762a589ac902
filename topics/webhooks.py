"""`provider-webhooks`: providers' raw webhook requests, appended before they are parsed; MessagePack."""

from topics.record import Millis, Record


class RawWebhook(Record, tag="raw-webhook/1", frozen=True, kw_only=True):
    """An authenticated webhook request as it was received."""

    webhook_id: str
    provider: str
    """The provider's configured name, as in ``/webhooks/{provider}``."""
    kind: str
    """The provider's kind, which names the adapter that parses the format."""
    received_at: Millis
    headers: tuple[tuple[str, str], ...]
    body: bytes

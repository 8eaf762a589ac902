"""`provider-webhooks`: the raw request, before anybody understood it; MessagePack."""

from topics.record import Millis, Record


class RawWebhook(Record, tag="raw-webhook/1", frozen=True, kw_only=True):
    """An authentic webhook request as it came."""

    webhook_id: str
    provider: str
    """The provider's name here, as in ``/webhooks/{provider}``."""
    kind: str
    """Whose format it is: the provider's kind, which names the adapter."""
    received_at: Millis
    headers: tuple[tuple[str, str], ...]
    body: bytes

"""Define the interface of the provider adapters: their inputs, their protocols and the names they share.

Every module of :mod:`pipeline.webhooks.providers` implements :class:`Adapter`; the gateway and the normalizer call it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from topics.events import DeliveryEvent
from topics.record import EmailId, Millis

EMAIL_ID_KEY: Final = "mailfold_email_id"
"""The name under which the email's id is put into each message's custom arguments, metadata, tags or variables.
A provider that repeats them in its events thereby names the email."""
UNCORRELATED: Final = EmailId("")
"""The email_id of an event that does not name an email of ours; it is correlated later by its provider_message_id."""


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook request as the gateway received it."""

    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    url: str = ""
    """The URL that is configured at the provider, including its query; Mandrill signs it."""
    certificate: bytes = b""
    """The signer's certificate (PEM), fetched from the adapter's `certificate_url`; empty for all but SNS."""


TokenReader = Callable[[str], EmailId | None]


def _read_nothing(_text: str) -> None:
    """Return None: the reader of a context that has no secrets."""


class TokenReaders(msgspec.Struct, frozen=True, kw_only=True):
    """Functions that return the email named by a token of ours, or None where its HMAC is not ours."""

    message_id: TokenReader = _read_nothing
    """Reads a Message-ID header (RFC 5322 §3.6.4)."""
    verp: TokenReader = _read_nothing
    """Reads the envelope sender to which bounces are returned."""
    unsubscribe: TokenReader = _read_nothing
    """Reads the address of `List-Unsubscribe` (RFC 2369)."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of an event that an adapter needs in addition to the event itself."""

    provider: str
    """The provider's name in our configuration."""
    received_at: Millis
    headers: Mapping[str, str] = {}
    """The stored headers of the request, names in lower case."""
    token_readers: TokenReaders = TokenReaders()


class Adapter(Protocol):
    """The interface of each provider's module."""

    HORIZON_S: int
    """Seconds for which the provider repeats a request that was not accepted. A signature stays fresh for at least as
    long, so that repeats after an outage of ours are still accepted."""

    def verify(self, incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
        """Raise InvalidSignatureError unless the request is fresh and authenticated by one of ``keys``."""
        ...

    def split(self, body: bytes, headers: Mapping[str, str]) -> list[bytes]:
        """Return the events of a request, each as its own bytes. Raise Unrecognised."""
        ...

    def normalize(self, event: bytes, context: EventContext) -> DeliveryEvent:
        """Return one event as a DeliveryEvent without any address.

        Its email_id is UNCORRELATED if the event does not name an email of ours. An event of an unknown type becomes
        UNKNOWN. Raise Unrecognised for bytes that are not an event.
        """
        ...


class SubscriptionAdapter(Protocol):
    """An adapter whose signatures need a certificate and whose subscriptions need a confirmation (Amazon SNS)."""

    def certificate_url(self, incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> str | None:
        """Return the URL of the signer's certificate. Raise InvalidSignatureError for a URL that is not the provider's.

        Also raise it for a request that will be refused in any case, so that no certificate is fetched for it.
        """
        ...

    def confirmation_url(self, incoming: WebhookRequest) -> str | None:
        """Return the URL that confirms a subscription; None for a request that asks for no confirmation.

        Call it with verified requests only. Raise InvalidSignatureError for a URL that is not the provider's.
        """
        ...


class OneTimeTokenAdapter(Protocol):
    """An adapter whose signature covers a one-time token instead of the body (Mailgun)."""

    def token(self, incoming: WebhookRequest) -> tuple[str, bytes]:
        """Return the token and a digest of the only body for which it may be used."""
        ...


class ProbeAdapter(Protocol):
    """An adapter whose provider tests the URL before a key exists to sign with (Mandrill, MailerSend)."""

    def is_probe(self, incoming: WebhookRequest) -> bool:
        """Return whether the request is only such a test: it needs a 2xx, carries no event and is not stored."""
        ...

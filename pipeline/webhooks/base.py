"""What an adapter takes and gives: one provider's requests in, delivery events in our words out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from topics.events import DeliveryEvent
from topics.record import EmailId, Millis

EMAIL_ID_KEY: Final = "mailfold_email_id"
"""Under this name the email's id goes into each message's custom arguments, metadata, tags or variables, and every
provider that repeats them says which email its event is about."""
UNCORRELATED: Final = EmailId("")
"""The email_id of an event that names no email of ours itself; its provider_message_id may, by and by."""


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook request as it came."""

    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    url: str = ""
    """As the provider knows it, its query included; Mandrill signs it."""
    certificate: bytes = b""
    """PEM, from the place that the adapter's `certificate_url` names; empty for all but SNS."""


TokenReader = Callable[[str], EmailId | None]


def _never(_text: str) -> None:
    """Knows no email."""


class TokenReaders(msgspec.Struct, frozen=True, kw_only=True):
    """Which email something of ours names, by its HMAC; None for what is not ours."""

    message_id: TokenReader = _never
    """A Message-ID header (RFC 5322 §3.6.4)."""
    verp: TokenReader = _never
    """The envelope sender that bounces go to."""
    unsubscribe: TokenReader = _never
    """The address of `List-Unsubscribe` (RFC 2369)."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter knows beside the event itself."""

    provider: str
    """The provider's name here."""
    received_at: Millis
    headers: Mapping[str, str] = {}
    """The request's, names in lower case, as far as they are kept."""
    token_readers: TokenReaders = TokenReaders()


class Adapter(Protocol):
    """What each provider's module offers."""

    HORIZON_S: int
    """For how long the provider repeats a request that we did not take, in seconds: what it signed when it first
    tried is fresh for as long, so that an outage of ours turns no repeat away."""

    def verify(self, incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
        """Raise Forged unless the request is the provider's, by any of ``keys``, and fresh."""
        ...

    def split(self, body: bytes, headers: Mapping[str, str]) -> list[bytes]:
        """A request's events, each as its own bytes. Raises Unrecognised."""
        ...

    def normalize(self, event: bytes, context: EventContext) -> DeliveryEvent:
        """One event in our words, without any address; UNCORRELATED if it names no email of ours itself.

        Raises Unrecognised for what is no event. An event of an unknown name is kept as UNKNOWN.
        """
        ...


class SubscriptionAdapter(Protocol):
    """An adapter whose signatures need a certificate, and whose sender asks before it sends (Amazon SNS)."""

    def certificate_url(self, incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> str | None:
        """Return where the certificate lies. Raise Forged for any place but the provider's own.

        Also for what is refused whoever signed it: nothing is fetched for that.
        """
        ...

    def confirmation_url(self, incoming: WebhookRequest) -> str | None:
        """What to visit to confirm a subscription; None for a request that asks nothing.

        Only for what was verified. Raises Forged for any place but the provider's own.
        """
        ...


class OneTimeTokenAdapter(Protocol):
    """An adapter whose signature does not cover the body: it covers a token, good for one body only (Mailgun)."""

    def token(self, incoming: WebhookRequest) -> tuple[str, bytes]:
        """The token and a digest of what it may be used for."""
        ...


class ProbeAdapter(Protocol):
    """An adapter whose provider tries the address out before there is a key to sign with (Mandrill, MailerSend)."""

    def is_probe(self, incoming: WebhookRequest) -> bool:
        """Whether this is no more than that: it wants a 2xx, proves nothing and tells nothing, so it is not kept."""
        ...

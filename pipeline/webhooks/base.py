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
EMAIL_TAG_KEY: Final = "mailfold_email_tag"
"""The name under which the HMAC of that id is put beside it: an event that repeats both comes from whoever got the
message, and not just from somebody who knows the webhook's password. Postmark allows 20 characters."""
UNCORRELATED: Final = EmailId("")
"""The email_id of an event that does not prove its email; it is correlated later by its provider's acks."""


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


def _accept_nothing(_email_id: EmailId, _tag: str) -> bool:
    """Return False: the verifier of a context that has no secrets."""
    return False


class EmailEcho(msgspec.Struct, frozen=True):
    """The email's id and its tag as an event repeats them."""

    email_id: EmailId | None
    tag: str = ""


NO_ECHO: Final = EmailEcho(None)


class NamedEmail(msgspec.Struct, frozen=True):
    """The email that an event names: by proof, or only by claim. At most one of both is set."""

    proven: EmailId = UNCORRELATED
    claimed: EmailId = UNCORRELATED


class TokenReaders(msgspec.Struct, frozen=True, kw_only=True):
    """Functions that return the email named by a token of ours, or None where its HMAC is not ours."""

    message_id: TokenReader = _read_nothing
    """Reads a Message-ID header (RFC 5322 §3.6.4)."""
    verp: TokenReader = _read_nothing
    """Reads the envelope sender to which bounces are returned."""
    unsubscribe: TokenReader = _read_nothing
    """Reads the address of `List-Unsubscribe` (RFC 2369)."""
    is_echo_tag: Callable[[EmailId, str], bool] = _accept_nothing
    """Returns whether a tag is the one that we put beside this email's id."""


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of an event that an adapter needs in addition to the event itself."""

    provider: str
    """The provider's name in our configuration."""
    received_at: Millis
    headers: Mapping[str, str] = {}
    """The stored headers of the request, names in lower case."""
    token_readers: TokenReaders = TokenReaders()

    def named_email(self, echo: EmailEcho, *message_ids: str) -> NamedEmail:
        """Return the email that an event names by our echoed metadata, or else by one of these Message-IDs.

        The echo is proven by its tag, or by a signed Message-ID of the same email. A tag that is not ours counts as
        none: it may have been made with a secret that was removed since.
        """
        claimed = echo.email_id
        if claimed is not None and self.token_readers.is_echo_tag(claimed, echo.tag):
            return NamedEmail(proven=claimed)
        signed = next(filter(None, map(self.token_readers.message_id, message_ids)), None)
        if signed is not None:
            return NamedEmail(proven=signed)
        return NamedEmail(claimed=claimed or UNCORRELATED)


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

        Its email_id is UNCORRELATED if the event does not prove that it is about an email of ours (see
        :meth:`EventContext.named_email`). An event of an unknown type becomes UNKNOWN. Raise Unrecognised for bytes
        that are not an event.
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

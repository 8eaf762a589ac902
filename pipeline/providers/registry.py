"""Which adapter reads a kind of provider's webhooks: a new provider is one file, one golden folder, one row here."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from pipeline.errors import NotFound
from pipeline.providers import sendgrid
from topics.events import DeliveryEvent
from topics.record import EmailId, Millis

Correlate = Callable[[str], EmailId | None]
"""Which email a Message-ID names, if it is one of ours."""


class Adapter(Protocol):
    """What each provider's module offers; sans-I/O."""

    def verify(self, public_key: str, headers: Mapping[str, str], body: bytes, now_ms: int, max_age_s: int) -> None:
        """Raise Forged unless the request is the provider's and fresh."""
        ...

    def split(self, body: bytes) -> list[bytes]:
        """A request's events. Raises Unrecognised."""
        ...

    def normalize(self, event: bytes, *, provider: str, received_at: Millis, correlate: Correlate) -> DeliveryEvent:
        """One event in our words. Raises Unrecognised or Uncorrelated."""
        ...


ADAPTERS: Final[Mapping[str, Adapter]] = {
    "sendgrid": sendgrid,
    "sandbox": sendgrid,
}


def adapter(kind: str) -> Adapter:
    """The adapter for a provider's kind. Raises NotFound for one that sends no webhooks, such as plain SMTP."""
    try:
        return ADAPTERS[kind]
    except KeyError:
        raise NotFound(f"providers of kind {kind!r} send no webhooks that we read") from None

"""The interface of transports: the email they send, the result they return. Used by the whole dispatcher."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from pipeline.admin import Provider
from pipeline.content.message import OutgoingMessage
from pipeline.jobs.job import EndpointHealth


class SendOutcome(Enum):
    """How an attempt to send an email ended."""

    TAKEN = auto()
    """The provider accepted the email."""
    REJECTED = auto()
    """The server of the recipient rejected it permanently: a bounce."""
    DROPPED = auto()
    """The provider suppresses the address and did not send it."""
    REFUSED = auto()
    """The provider does not accept this message, whatever its recipient: a failure."""
    LATER = auto()
    """Certainly not accepted, for a temporary reason."""
    UNKNOWN = auto()
    """The message was sent but there was no answer, or one that does not tell whether it was accepted."""
    MISCONFIGURED = auto()
    """The account or its settings are refused: certainly not accepted, and neither a bounce nor a counted attempt."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of one attempt to send an email."""

    outcome: SendOutcome
    code: int
    """Status code of the SMTP or HTTP reply; 0 if there was none, and then ``text`` says what happened."""
    text: str
    health: EndpointHealth = EndpointHealth.HEALTHY
    """Health of the provider that the reply shows."""
    provider_message_id: str = ""
    retry_after_s: float = 0.0
    """Seconds to wait that the provider asked for."""
    stage: str = ""
    """Last stage of the SMTP conversation; empty for APIs."""
    concerns_one_email: bool = False
    """Whether the reply is about this email only, so that others of its lane may still succeed."""


@dataclass(frozen=True, slots=True)
class SmtpEnvelope:
    """The sender and recipient of the SMTP commands MAIL and RCPT."""

    sender: str
    recipient: str
    utf8: bool = False
    """Whether an address of the message needs SMTPUTF8 (RFC 6531)."""


@dataclass(frozen=True, slots=True)
class OutgoingEmail:
    """An email to hand to a provider."""

    envelope: SmtpEnvelope
    message: OutgoingMessage
    mime_bytes: bytes
    """The message as signed MIME; empty if the transport sends its parts instead."""
    commit: Callable[[], None]
    """Called right before the email is sent; raises LeaseLost if it must not be."""


class Transport(Protocol):
    """A way to send emails: SMTP, an HTTP API, or the router in front of both."""

    def takes_mime(self, provider: Provider) -> bool:
        """Return whether this provider needs ``OutgoingEmail.mime_bytes``."""
        ...

    def send(self, provider: Provider, mail: OutgoingEmail) -> Awaitable[SendResult]:
        """Send one email. Raises only what ``mail.commit`` raises."""
        ...

    def close_idle(self) -> None:
        """Close connections that were idle for too long; called about once a second."""
        ...

    async def close(self) -> None:
        """Close all connections, within a second or two."""
        ...

"""What carriers take and give: a mail in, an answer in the dispatcher's words out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from pipeline.admin import Provider
from pipeline.content.message import OutgoingMessage
from pipeline.jobs.job import EndpointHealth


class SendOutcome(Enum):
    """What became of the email."""

    TAKEN = auto()
    REJECTED = auto()
    """By the recipient's server, at once and for good: a bounce."""
    DROPPED = auto()
    """The provider suppresses the address: nobody was contacted."""
    REFUSED = auto()
    """Nobody takes this message as it is, whoever it goes to: a failure."""
    LATER = auto()
    """Surely not taken, this time."""
    UNKNOWN = auto()
    """The message went out and no answer came back, or one that leaves it open."""
    MISCONFIGURED = auto()
    """They don't want *us*: no fault of the email's, no attempt burnt, never a bounce, and surely not taken."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """The last word on a mail. Code 0: nobody answered, the text says what happened."""

    outcome: SendOutcome
    code: int
    text: str
    health: EndpointHealth = EndpointHealth.HEALTHY
    """What it tells of the provider."""
    provider_message_id: str = ""
    retry_after_s: float = 0.0
    """Seconds that the provider wants to be left alone."""
    stage: str = ""
    """How far it came, where there are stages (SMTP)."""
    concerns_one_email: bool = False
    """Whether it was said of this one email: others of its lane may fare better, so it must not wait for ever."""


@dataclass(frozen=True, slots=True)
class SmtpEnvelope:
    """Who it is from and to, for SMTP's eyes only; ``utf8`` where an address needs RFC 6531."""

    sender: str
    recipient: str
    utf8: bool = False


@dataclass(frozen=True, slots=True)
class OutgoingEmail:
    """One mail to hand over; ``commit`` is called right before it goes out, and may raise."""

    envelope: SmtpEnvelope
    letter: OutgoingMessage
    message: bytes
    """The letter as MIME, signed; empty where the carrier takes its parts instead."""
    commit: Callable[[], None]


class Transport(Protocol):
    """Hands mails over; one for each way there is."""

    def takes_mime(self, provider: Provider) -> bool:
        """Whether this provider wants ``Mail.message``."""
        ...

    def send(self, provider: Provider, mail: OutgoingEmail) -> Awaitable[SendResult]:
        """Hand one mail over. Raises only what ``mail.commit`` does."""
        ...

    def close_idle(self) -> None:
        """Close what was idle for too long; called now and then."""
        ...

    async def close(self) -> None:
        """Let everything go, within a second or two."""
        ...

"""An email that is ready to send. Pure; the dispatcher makes it, the transports encode it as MIME or JSON."""

from dataclasses import dataclass

from topics.contents import MessageContent
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

MessageHeaders = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A send request with its final content: with our links, pixel and headers."""

    request: SendRequest
    content: MessageContent
    sender: Mailbox
    message_id: str
    """The Message-ID in angle brackets; the same at every attempt."""
    date: Millis
    echo_tag: str
    """The tag that proves the email's id in metadata that providers repeat."""
    extra_headers: MessageHeaders = ()
    """Headers that Mailfold adds, such as `List-Unsubscribe`."""

    @property
    def recipient(self) -> Mailbox:
        """Return the recipient with the display name."""
        return Mailbox(address=self.request.recipient, name=self.request.recipient_name)

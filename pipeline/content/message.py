"""What one email says and to whom, ready for whoever carries it: MIME and each provider's JSON are made of it. Pure."""

from dataclasses import dataclass

from topics.contents import MessageContent
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

MessageHeaders = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A request with its content as it goes out: our links, pixel and headers in it."""

    request: SendRequest
    content: MessageContent
    sender: Mailbox
    message_id: str
    """In angle brackets; the same at every attempt."""
    date: Millis
    extra_headers: MessageHeaders = ()
    """Headers of ours, such as `List-Unsubscribe`."""

    @property
    def recipient(self) -> Mailbox:
        """Whom it goes to."""
        return Mailbox(address=self.request.recipient, name=self.request.recipient_name)

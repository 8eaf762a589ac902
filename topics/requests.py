"""`send-requests`: accepted requests, one record per email; the gateway accepts one once this record is confirmed."""

import msgspec

from topics.record import EmailId, Millis, Record, RecordPart
from topics.templates import TemplateRef

DEFAULT_BRAND = "default"
"""The brand of requests in dialects without brands (Extra Horizon, FreshMail)."""


class Mailbox(RecordPart, frozen=True, kw_only=True):
    """An address and the name shown with it."""

    address: str
    name: str = ""


class ContentPointer(RecordPart, frozen=True, kw_only=True):
    """The place of the content on `message-contents`; its SHA-256 is verified before sending.

    ``offset`` is the first chunk's; chunks of one content share a partition and follow in order,
    possibly with other contents' chunks between them.
    """

    content_id: str
    partition: int
    offset: int
    chunks: int
    sha256: str


class HeaderRecipients(RecordPart, frozen=True, kw_only=True):
    """The recipients in a message's headers; a recipient who isn't among them is a bcc."""

    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()


class SendRequest(Record, tag="send-request/1", frozen=True, kw_only=True):
    """A request to send one message to one recipient."""

    email_id: EmailId
    message_id: str
    tenant: str
    dialect: str
    brand: str
    recipient: str
    recorded_at: Millis
    recipient_name: str = ""
    identity: str = ""
    """The caller's id of the message (Fast Track: ``activity.id``); empty if it gave none."""
    sender: Mailbox | None = None
    reply_to: tuple[str, ...] = ()
    subject: str = ""
    kind: str = ""
    """`/v1/Email/`'s Type: token, group, tokenAndGroup, purchase; empty for other dialects."""
    activity: msgspec.Raw = msgspec.Raw(b"null")
    """The caller's own data, byte for byte; every conversion returns it."""
    details: msgspec.Raw = msgspec.Raw(b"null")
    """Verbatim JSON that a dialect's own reads return (`/v1/Email/`'s MsgDetails)."""
    content: ContentPointer | None = None
    shown: HeaderRecipients | None = None
    """Recipients in the headers; None for the recipient alone."""
    template: TemplateRef | None = None
    """The template that the content was rendered from when the request was accepted."""
    variables: msgspec.Raw = msgspec.Raw(b"null")
    """The variables that it was rendered with, verbatim JSON."""

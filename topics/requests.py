"""`send-requests`: a client's wish, one record per email. Its acknowledgement is the acceptance."""

import msgspec

from topics.record import EmailId, Millis, Record, RecordPart
from topics.templates import TemplateRef

DEFAULT_BRAND = "default"
"""The brand of dialects that know none (Extra Horizon, FreshMail)."""


class Mailbox(RecordPart, frozen=True, kw_only=True):
    """An address and the name shown with it."""

    address: str
    name: str = ""


class ContentPointer(RecordPart, frozen=True, kw_only=True):
    """Where the content lies on `message-contents`; the SHA-256 is verified before sending.

    ``offset`` is the first chunk's; chunks of one content share a partition and follow in order,
    possibly with other contents' chunks between them.
    """

    content_id: str
    partition: int
    offset: int
    chunks: int
    sha256: str


class HeaderRecipients(RecordPart, frozen=True, kw_only=True):
    """Whom a message's headers name. Whoever gets it and isn't here is a bcc."""

    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()


class SendRequest(Record, tag="send-request/1", frozen=True, kw_only=True):
    """One email wished for: one message to one recipient."""

    email_id: EmailId
    message_id: str
    tenant: str
    dialect: str
    brand: str
    recipient: str
    recorded_at: Millis
    recipient_name: str = ""
    identity: str = ""
    """What the caller calls it (Fast Track: ``activity.id``); empty where it gave nothing."""
    sender: Mailbox | None = None
    reply_to: tuple[str, ...] = ()
    subject: str = ""
    kind: str = ""
    """`/v1/Email/`'s Type: token, group, tokenAndGroup, purchase; empty for other dialects."""
    activity: msgspec.Raw = msgspec.Raw(b"null")
    """The caller's own data, byte for byte as it came; goes back in every conversion."""
    details: msgspec.Raw = msgspec.Raw(b"null")
    """What a dialect's own reads give back (`/v1/Email/`'s MsgDetails), verbatim JSON."""
    content: ContentPointer | None = None
    shown: HeaderRecipients | None = None
    """None: the recipient alone."""
    template: TemplateRef | None = None
    """What the content was rendered from, when it was accepted."""
    variables: msgspec.Raw = msgspec.Raw(b"null")
    """What it was rendered with, verbatim JSON."""

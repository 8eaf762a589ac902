"""Build emails as a dispatcher gives them to a transport."""

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

from pipeline.content import mime
from pipeline.content.message import OutgoingMessage
from pipeline.dispatch.transports.base import OutgoingEmail, SmtpEnvelope
from tests.support.dispatching import request
from topics.contents import Attachment, MessageContent
from topics.record import EmailId
from topics.requests import Mailbox

NOW = 1_767_225_600_123
"""2026-01-01, 00:00:00.123 UTC."""
TAG = "0123456789abcdef" * 2
"""The tag beside each email's id."""
FULL = MessageContent(
    html="<p>Grüße</p>",
    text="Grüße",
    amp="<!doctype html><html ⚡4email></html>",
    attachments=(Attachment(filename="Preisliste für März.pdf", media_type="application/pdf", data=b"%PDF-\0\xff"),),
    headers=(("X-Campaign", "spring"), ("X-Note", "Grüße"), ("Subject", "not this one"), ("Precedence", "bulk")),
)
UNSUBSCRIBE = (
    ("List-Unsubscribe", "<https://mail.example/u/abc>, <mailto:u-abc@mail.example>"),
    ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
)


def letter(
    recipient: str = "anna@example.com", content: MessageContent | None = None, **values: Any
) -> OutgoingMessage:
    """Return a message to send; ``values`` are fields of its request."""
    email_id = EmailId(str(uuid.uuid4()))
    fields: dict[str, Any] = {"email_id": email_id, "recipient_name": 'Åsa "A." Öst', "subject": "Grüße, Anna"}
    return OutgoingMessage(
        request(recipient, **(fields | values)),
        content or MessageContent(html="<p>Hello</p>", text="Hello"),
        sender=Mailbox(address="news@shop.example", name="Shop, the"),
        message_id=f"<{email_id}@mail.example>",
        date=NOW,
        echo_tag=TAG,
        extra_headers=UNSUBSCRIBE,
    )


def mail(
    recipient: str = "anna@example.com",
    content: MessageContent | None = None,
    commit: Callable[[], None] = lambda: None,
    **values: Any,
) -> OutgoingEmail:
    """Return an email with its envelope and MIME message; ``values`` are fields of its request."""
    message = letter(recipient, content, **values)
    to = mime.with_ascii_domain(recipient)
    shown = () if message.request.shown is None else (*message.request.shown.to, *message.request.shown.cc)
    addresses = (to, message.sender.address, *message.request.reply_to, *(mailbox.address for mailbox in shown))
    envelope = SmtpEnvelope("b-abc@mail.example", to, mime.needs_smtputf8(*addresses))
    return OutgoingEmail(envelope, message, mime.encode_message(message), commit)


def without_mime(email: OutgoingEmail) -> OutgoingEmail:
    """Return the email without its MIME message, as transports get it that need none."""
    return dataclasses.replace(email, mime_bytes=b"")

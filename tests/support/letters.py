"""A mail as a dispatcher hands it to a carrier."""

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

from pipeline.content import mime
from pipeline.content.message import Letter
from pipeline.dispatch.transports.base import Envelope, Mail
from tests.support.dispatching import request
from topics.contents import Attachment, Content
from topics.record import EmailId
from topics.requests import Mailbox

NOW = 1_767_225_600_123
"""2026-01-01, 00:00:00.123 UTC."""
FULL = Content(
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


def letter(recipient: str = "anna@example.com", content: Content | None = None, **values: Any) -> Letter:
    email_id = EmailId(str(uuid.uuid4()))
    fields: dict[str, Any] = {"email_id": email_id, "recipient_name": 'Åsa "A." Öst', "subject": "Grüße, Anna"}
    return Letter(
        request(recipient, **(fields | values)),
        content or Content(html="<p>Hello</p>", text="Hello"),
        sender=Mailbox(address="news@shop.example", name="Shop, the"),
        message_id=f"<{email_id}@mail.example>",
        date=NOW,
        extra=UNSUBSCRIBE,
    )


def mail(
    recipient: str = "anna@example.com",
    content: Content | None = None,
    commit: Callable[[], None] = lambda: None,
    **values: Any,
) -> Mail:
    made = letter(recipient, content, **values)
    to = mime.on_the_wire(recipient)
    shown = () if made.request.shown is None else (*made.request.shown.to, *made.request.shown.cc)
    named = (to, made.sender.address, *made.request.reply_to, *(box.address for box in shown))
    envelope = Envelope("b-abc@mail.example", to, mime.needs_smtputf8(*named))
    return Mail(envelope, made, mime.written(made), commit)


def without_mime(given: Mail) -> Mail:
    return dataclasses.replace(given, message=b"")

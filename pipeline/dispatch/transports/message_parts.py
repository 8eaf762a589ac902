"""The parts of a message in the form that JSON APIs take: bodies, headers, mailboxes and attachments.

Pure; called by the modules of those APIs. The rules are those of MIME: no control characters, and no header of a
caller replaces one of ours.
"""

import base64
import re
from typing import Any, Final

from pipeline.content import mime
from pipeline.content.message import OutgoingMessage
from pipeline.errors import Refused
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY
from topics.requests import Mailbox

_QUOTED: Final = re.compile(r'(["\\])')


def bodies(message: OutgoingMessage, *, amp: bool) -> list[tuple[str, str]]:
    """Return the bodies, plain text first, as pairs of media type and text. Raises Refused if there is none."""
    parts = [(f"text/{kind}", body) for kind, body in mime.alternatives(message.content) if body.strip()]
    if not parts:
        raise Refused("the message has no body, which this provider's API doesn't take")
    return [(kind, body) for kind, body in parts if amp or kind != "text/x-amp-html"]


def headers(message: OutgoingMessage) -> dict[str, str]:
    """Return the headers for which APIs have no field, in ASCII; ours win over the caller's of the same name."""
    custom = mime.custom_headers(message.content)
    by_name: dict[str, tuple[str, str]] = {}
    for name, value in (("Message-ID", message.message_id), *message.extra_headers, *custom):
        by_name.setdefault(name.lower(), (name, mime.encode_one_line(name, value)))
    return dict(by_name.values())


def echo(message: OutgoingMessage) -> dict[str, str]:
    """Return the metadata that the provider repeats in its events: the email's id and its tag."""
    return {EMAIL_ID_KEY: message.request.email_id, EMAIL_TAG_KEY: message.echo_tag}


def subject(message: OutgoingMessage) -> str:
    """Return the subject, on one line."""
    return mime.printable_text(message.request.subject)


def address(mailbox: Mailbox) -> str:
    """Return the address of a mailbox without its name, the domain in ASCII."""
    return mime.with_ascii_domain(mailbox.address)


def display_name(mailbox: Mailbox) -> str:
    """Return the name of a mailbox, on one line."""
    return mime.printable_text(mailbox.name)


def format_mailbox(mailbox: Mailbox) -> str:
    """Return `"Name" <address>` with the name in UTF-8, for APIs that have one field for both."""
    name = _QUOTED.sub(r"\\\1", display_name(mailbox))
    return f'"{name}" <{address(mailbox)}>' if name else address(mailbox)


def reply_to(message: OutgoingMessage) -> list[str]:
    """Return the Reply-To addresses without duplicates, their domains in ASCII."""
    return list(dict.fromkeys(mime.with_ascii_domain(address) for address in message.request.reply_to))


def attachments(message: OutgoingMessage) -> list[dict[str, Any]]:
    """Return the attachments, each with its name, media type and data in base64."""
    return [
        {
            "name": mime.printable_text(attachment.filename) or "attachment",
            "type": mime.media_type(attachment),
            "data": base64.b64encode(attachment.data).decode(),
        }
        for attachment in message.content.attachments
    ]


def check_size(size: int, max_bytes: int, provider: str) -> None:
    """Raise Refused if a message of ``size`` bytes is larger than the provider accepts."""
    if size > max_bytes:
        raise Refused(f"the message has {size} bytes, {provider} takes {max_bytes}")

"""A letter in, its parts as JSON APIs want them out: bodies, headers, mailboxes, attachments. Pure.

The same rules as for MIME: no control characters, no header of a caller's in the place of ours.
"""

import base64
import re
from typing import Any, Final

from pipeline.content import mime
from pipeline.content.message import OutgoingMessage
from pipeline.errors import Refused
from topics.requests import Mailbox

_QUOTED: Final = re.compile(r'(["\\])')


def bodies(letter: OutgoingMessage, *, amp: bool) -> list[tuple[str, str]]:
    """The bodies, plainest first, as (media type, text). Raises Refused where there's none."""
    found = [(f"text/{kind}", body) for kind, body in mime.alternatives(letter.content) if body.strip()]
    if not found:
        raise Refused("the message has no body, which this provider's API doesn't take")
    return [(kind, body) for kind, body in found if amp or kind != "text/x-amp-html"]


def headers(letter: OutgoingMessage) -> dict[str, str]:
    """Headers that the API doesn't know fields for, ours before the caller's of the same name; all ASCII."""
    own = mime.custom_headers(letter.content)
    found: dict[str, tuple[str, str]] = {}
    for name, value in (("Message-ID", letter.message_id), *letter.extra_headers, *own):
        found.setdefault(name.lower(), (name, mime.encode_one_line(name, value)))
    return dict(found.values())


def subject(letter: OutgoingMessage) -> str:
    """The subject, on one line."""
    return mime.printable_text(letter.request.subject)


def address(mailbox: Mailbox) -> str:
    """The address alone, its domain in ASCII."""
    return mime.with_ascii_domain(mailbox.address)


def display_name(given: Mailbox) -> str:
    """The name shown with it, on one line."""
    return mime.printable_text(given.name)


def mailbox(given: Mailbox) -> str:
    """`"Name" <address>`, the name in UTF-8: what APIs take that know one field for both."""
    shown = _QUOTED.sub(r"\\\1", display_name(given))
    return f'"{shown}" <{address(given)}>' if shown else address(given)


def reply_to(letter: OutgoingMessage) -> list[str]:
    """Where answers go, each address once."""
    return list(dict.fromkeys(mime.with_ascii_domain(one) for one in letter.request.reply_to))


def attachments(letter: OutgoingMessage) -> list[dict[str, Any]]:
    """Files as (name, type, data) in base64."""
    return [
        {
            "name": mime.printable_text(attachment.filename) or "attachment",
            "type": mime.media_type(attachment),
            "data": base64.b64encode(attachment.data).decode(),
        }
        for attachment in letter.content.attachments
    ]


def check_size(size: int, most: int, provider: str) -> None:
    """Raise Refused for what this provider takes nowhere near."""
    if size > most:
        raise Refused(f"the message has {size} bytes, {provider} takes {most}")

"""A cheap check that an inbound message refers to an email of ours. Pure; its time is linear in the message's size.

The recorder and the maildir make it before a message is appended. Every useful report contains something that we
signed: the address it was sent to, or the Message-ID of the email that it is about.
"""

import binascii
import re
from collections.abc import Iterator
from typing import Final

from pipeline.webhooks.base import TokenReaders

MAX_TAGS_VERIFIED: Final = 200
"""Tags verified per message; a real report has ours among the first."""
MAX_SCANNED_BYTES: Final = 262_144
"""Bytes scanned from a message's start: the report comes first, and the original's headers follow directly."""
_OWN_TAG: Final = re.compile(rb"\b(?:[bu]-[a-z2-7]{26}-|[a-z2-7]{26}\.)[a-z2-7]{26}@[a-z0-9.-]{1,255}", re.IGNORECASE)
"""The form of our return paths, unsubscribe addresses and Message-IDs (:mod:`pipeline.content.tokens`)."""
_BASE64_LINES: Final = re.compile(rb"(?<=\n)(?:[A-Za-z0-9+/]{4,}+={0,2}(?:\r?\n|\Z))+")
"""Consecutive lines of base64; the possessive quantifier keeps the search linear."""
_BASE64_MIN_BYTES: Final = 60
"""Bytes of the shortest encoded text that can contain a tag."""


def is_signed_address(address: str, token_readers: TokenReaders) -> bool:
    """Return whether the address is a return path or an unsubscribe address that we signed."""
    return token_readers.verp(address) is not None or token_readers.unsubscribe(address) is not None


def has_own_tag(message: bytes, token_readers: TokenReaders | None) -> bool:
    """Return whether the message contains a tag that we signed; without ``token_readers``, one of that form."""
    seen: set[str] = set()
    for text in _decodings(message[:MAX_SCANNED_BYTES]):
        for match in _OWN_TAG.finditer(text):
            tag = match[0].decode("ascii").lower()
            if tag in seen:
                continue
            if (
                token_readers is None
                or is_signed_address(tag, token_readers)
                or token_readers.message_id(tag) is not None
            ):
                return True
            seen.add(tag)
            if len(seen) >= MAX_TAGS_VERIFIED:
                return False
    return False


def _decodings(message: bytes) -> Iterator[bytes]:
    """Yield the message as it came, and decoded from quoted-printable and base64 (RFC 2045 §6.7, §6.8)."""
    yield message
    if b"=" in message:
        yield binascii.a2b_qp(message)
    for block in _BASE64_LINES.findall(message):
        if len(block) >= _BASE64_MIN_BYTES:
            digits = block.translate(None, b"\r\n=")
            yield binascii.a2b_base64(digits[: len(digits) // 4 * 4])

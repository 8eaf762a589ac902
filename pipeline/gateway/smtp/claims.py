"""Whether a message names an email of ours: asked before anybody takes it apart. Pure, and linear in its size.

A report that counts brings something of ours back: the address it came to, or the Message-ID of the mail it is about.
"""

import binascii
import re
from collections.abc import Iterator
from typing import Final

from pipeline.webhooks.base import TokenReaders

MAX_TAGS_VERIFIED: Final = 200
"""Tags that are verified of one message; a real one stands among the first."""
MAX_SCANNED_BYTES: Final = 262_144
"""Of a message's beginning: a report stands first, and the original's header fields right behind it."""
_OWN_TAG: Final = re.compile(rb"\b(?:[bu]-[a-z2-7]{26}-|[a-z2-7]{26}\.)[a-z2-7]{26}@[a-z0-9.-]{1,255}", re.IGNORECASE)
"""Shaped like a return path, an unsubscribe address or a Message-ID of ours (:mod:`pipeline.content.tokens`)."""
_BASE64_LINES: Final = re.compile(rb"(?<=\n)(?:[A-Za-z0-9+/]{4,}+={0,2}(?:\r?\n|\Z))+")
"""Lines of nothing else: possessive, so that each is read once."""
_BASE64_MIN_BYTES: Final = 60
"""Bytes of encoded text that could hold a tag."""


def is_signed_address(address: str, proofs: TokenReaders) -> bool:
    """Return whether the address is a return path or an unsubscribe address with a tag of ours."""
    return proofs.verp(address) is not None or proofs.unsubscribe(address) is not None


def has_own_tag(message: bytes, proofs: TokenReaders | None) -> bool:
    """Return whether a tag of ours stands in the message; without ``proofs``, whether one of that shape does."""
    seen: set[str] = set()
    for text in _readings(message[:MAX_SCANNED_BYTES]):
        for found in _OWN_TAG.finditer(text):
            tag = found[0].decode("ascii").lower()
            if tag in seen:
                continue
            if proofs is None or is_signed_address(tag, proofs) or proofs.message_id(tag) is not None:
                return True
            seen.add(tag)
            if len(seen) >= MAX_TAGS_VERIFIED:
                return False
    return False


def _readings(message: bytes) -> Iterator[bytes]:
    """Yield the message as it came, and as its transfer encodings (RFC 2045 §6.7, §6.8) hide it."""
    yield message
    if b"=" in message:
        yield binascii.a2b_qp(message)
    for block in _BASE64_LINES.findall(message):
        if len(block) >= _BASE64_MIN_BYTES:
            digits = block.translate(None, b"\r\n=")
            yield binascii.a2b_base64(digits[: len(digits) // 4 * 4])

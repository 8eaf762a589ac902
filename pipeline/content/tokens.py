"""Signed tokens that we put into a message and that find their way home: pixel, click, VERP, unsubscribe, Message-ID.

Pure; the signer comes in from outside. No address is ever in a token.
"""

import base64
import re
import uuid
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.signing import Signer, sign_token, verify_token
from topics.record import EmailId

UUID_BYTES: Final = 16
_VERP_LOCAL_PART: Final = re.compile(r"^b-([a-z2-7]{26})-([a-z2-7]{26})$")
_UNSUBSCRIBE_LOCAL_PART: Final = re.compile(r"^u-([a-z2-7]{26})-([a-z2-7]{26})$")
_MESSAGE_ID: Final = re.compile(r"^<?([a-z2-7]{26})\.([a-z2-7]{26})@")


def pixel_token(signer: Signer, email_id: EmailId) -> str:
    """The token in the tracking pixel's address: 43 characters."""
    return sign_token(signer, b"o", uuid.UUID(email_id).bytes)


def read_pixel_token(signer: Signer, token: str) -> EmailId:
    """The email whose pixel this is. Raises Forged."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"o", token, UUID_BYTES))))


def trap_token(signer: Signer, email_id: EmailId) -> str:
    """The token in the address of the link that no human sees."""
    return sign_token(signer, b"t", uuid.UUID(email_id).bytes)


def read_trap_token(signer: Signer, token: str) -> EmailId:
    """The email whose hidden link this is. Raises Forged."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"t", token, UUID_BYTES))))


def unsubscribe_token(signer: Signer, email_id: EmailId) -> str:
    """The token in the address of one-click unsubscribe (RFC 8058)."""
    return sign_token(signer, b"p", uuid.UUID(email_id).bytes)


def read_unsubscribe_token(signer: Signer, token: str) -> EmailId:
    """The email whose reader wants no more of its kind. Raises Forged."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"p", token, UUID_BYTES))))


def click_token(signer: Signer, email_id: EmailId, link: int, url: str) -> str:
    """The token in a rewritten link: which email, which link, and where to; signed, so no open redirect."""
    payload = uuid.UUID(email_id).bytes + link.to_bytes(2, "big") + url.encode()
    return sign_token(signer, b"c", payload)


def read_click_token(signer: Signer, token: str) -> tuple[EmailId, int, str]:
    """The email, the link's number and the target. Raises Forged."""
    payload = verify_token(signer, b"c", token)
    if len(payload) < 19:
        raise InvalidSignatureError("a click token is too short")
    return (
        EmailId(str(uuid.UUID(bytes=payload[:16]))),
        int.from_bytes(payload[16:18], "big"),
        payload[18:].decode(),
    )


def verp_address(signer: Signer, email_id: EmailId, domain: str) -> str:
    """The envelope sender (variable envelope return path): bounces to it name the email and prove it."""
    raw = uuid.UUID(email_id).bytes
    return f"b-{_b32(raw)}-{_b32(signer.tag(b'v' + raw))}@{domain}"


def read_verp_address(signer: Signer, address: str) -> EmailId:
    """The email a bounce address belongs to. Raises Forged."""
    found = _VERP_LOCAL_PART.match(address.strip("<>").partition("@")[0].lower())
    return _named(signer, b"v", found)


def unsubscribe_address(signer: Signer, email_id: EmailId, domain: str) -> str:
    """Where a mail unsubscribes this email's recipient (RFC 2369's `mailto:`): it names the email and proves it."""
    raw = uuid.UUID(email_id).bytes
    return f"u-{_b32(raw)}-{_b32(signer.tag(b'u' + raw))}@{domain}"


def read_unsubscribe_address(signer: Signer, address: str) -> EmailId:
    """The email whose recipient unsubscribes by a mail to this address. Raises Forged."""
    return _named(signer, b"u", _UNSUBSCRIBE_LOCAL_PART.match(address.strip("<>").partition("@")[0].lower()))


def message_id_header(signer: Signer, email_id: EmailId, domain: str) -> str:
    """The Message-ID (RFC 5322 §3.6.4): the same at every attempt, and provably ours when it comes back."""
    raw = uuid.UUID(email_id).bytes
    return f"<{_b32(raw)}.{_b32(signer.tag(b'm' + raw))}@{domain}>"


def read_message_id(signer: Signer, header: str) -> EmailId:
    """The email a Message-ID of ours names. Raises Forged."""
    return _named(signer, b"m", _MESSAGE_ID.match(header.strip().lower()))


def _named(signer: Signer, kind: bytes, found: re.Match[str] | None) -> EmailId:
    if found is None:
        raise InvalidSignatureError("not an address or id of ours")
    raw, tag = _unb32(found[1]), _unb32(found[2])
    if not signer.verify(kind + raw, tag):
        raise InvalidSignatureError("the signature is not ours")
    return EmailId(str(uuid.UUID(bytes=raw)))


def _b32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _unb32(text: str) -> bytes:
    try:
        return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError:
        raise InvalidSignatureError("not base32") from None

"""Make and read the signed tokens in a message: pixel, trap, click, VERP, unsubscribe, Message-ID and echo. Pure.

The dispatcher makes them; the gateway and the bounce handling read them. No token contains an email address. All
`read_…` functions raise InvalidSignatureError.
"""

import base64
import re
import uuid
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.secrets.signing import Signer, sign_token, verify_token
from topics.record import EmailId

UUID_BYTES: Final = 16
_VERP_LOCAL_PART: Final = re.compile(r"^b-([a-z2-7]{26})-([a-z2-7]{26})$")
_UNSUBSCRIBE_LOCAL_PART: Final = re.compile(r"^u-([a-z2-7]{26})-([a-z2-7]{26})$")
_MESSAGE_ID: Final = re.compile(r"^<?([a-z2-7]{26})\.([a-z2-7]{26})@")


def pixel_token(signer: Signer, email_id: EmailId) -> str:
    """Return the token in the tracking pixel's URL: 43 characters."""
    return sign_token(signer, b"o", uuid.UUID(email_id).bytes)


def read_pixel_token(signer: Signer, token: str) -> EmailId:
    """Return the email of a pixel token. Raise InvalidSignatureError."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"o", token, UUID_BYTES))))


def trap_token(signer: Signer, email_id: EmailId) -> str:
    """Return the token in the URL of the trap link, which no person sees."""
    return sign_token(signer, b"t", uuid.UUID(email_id).bytes)


def read_trap_token(signer: Signer, token: str) -> EmailId:
    """Return the email of a trap token. Raise InvalidSignatureError."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"t", token, UUID_BYTES))))


def unsubscribe_token(signer: Signer, email_id: EmailId) -> str:
    """Return the token in the URL of one-click unsubscribe (RFC 8058)."""
    return sign_token(signer, b"p", uuid.UUID(email_id).bytes)


def read_unsubscribe_token(signer: Signer, token: str) -> EmailId:
    """Return the email whose recipient unsubscribes by this token. Raise InvalidSignatureError."""
    return EmailId(str(uuid.UUID(bytes=verify_token(signer, b"p", token, UUID_BYTES))))


def click_token(signer: Signer, email_id: EmailId, link: int, url: str) -> str:
    """Return the token in a tracked link: email, number and target of the link, signed to prevent an open redirect."""
    payload = uuid.UUID(email_id).bytes + link.to_bytes(2, "big") + url.encode()
    return sign_token(signer, b"c", payload)


def read_click_token(signer: Signer, token: str) -> tuple[EmailId, int, str]:
    """Return the email, the link's number and its target. Raise InvalidSignatureError."""
    payload = verify_token(signer, b"c", token)
    if len(payload) < 19:
        raise InvalidSignatureError("a click token is too short")
    return (
        EmailId(str(uuid.UUID(bytes=payload[:16]))),
        int.from_bytes(payload[16:18], "big"),
        payload[18:].decode(),
    )


def verp_address(signer: Signer, email_id: EmailId, domain: str) -> str:
    """Return the envelope sender (variable envelope return path), whose signature proves which email bounced."""
    raw = uuid.UUID(email_id).bytes
    return f"b-{_b32(raw)}-{_b32(signer.tag(b'v' + raw))}@{domain}"


def read_verp_address(signer: Signer, address: str) -> EmailId:
    """Return the email of a bounce address. Raise InvalidSignatureError."""
    return _verified_email(signer, b"v", _VERP_LOCAL_PART.match(address.strip("<>").partition("@")[0].lower()))


def unsubscribe_address(signer: Signer, email_id: EmailId, domain: str) -> str:
    """Return the signed address to which a mail unsubscribes this email's recipient (RFC 2369's `mailto:`)."""
    raw = uuid.UUID(email_id).bytes
    return f"u-{_b32(raw)}-{_b32(signer.tag(b'u' + raw))}@{domain}"


def read_unsubscribe_address(signer: Signer, address: str) -> EmailId:
    """Return the email whose recipient unsubscribes by a mail to this address. Raise InvalidSignatureError."""
    return _verified_email(signer, b"u", _UNSUBSCRIBE_LOCAL_PART.match(address.strip("<>").partition("@")[0].lower()))


def message_id_header(signer: Signer, email_id: EmailId, domain: str) -> str:
    """Return the signed Message-ID (RFC 5322 §3.6.4), which is the same at every attempt."""
    raw = uuid.UUID(email_id).bytes
    return f"<{_b32(raw)}.{_b32(signer.tag(b'm' + raw))}@{domain}>"


def read_message_id(signer: Signer, header: str) -> EmailId:
    """Return the email of a Message-ID that Mailfold made. Raise InvalidSignatureError."""
    return _verified_email(signer, b"m", _MESSAGE_ID.match(header.strip().lower()))


def echo_tag(signer: Signer, email_id: EmailId) -> str:
    """Return the tag beside an email's id in metadata that providers repeat: 32 hexadecimal digits.

    Digits and lower-case letters only: some providers change the case of a tag, and few characters are allowed in it.
    """
    return signer.tag(b"e" + uuid.UUID(email_id).bytes).hex()


def is_echo_tag(signer: Signer, email_id: EmailId, tag: str) -> bool:
    """Return whether this tag is ours and belongs to this email, under any secret."""
    try:
        return signer.verify(b"e" + uuid.UUID(email_id).bytes, bytes.fromhex(tag))
    except ValueError:
        return False


def _verified_email(signer: Signer, kind: bytes, match: re.Match[str] | None) -> EmailId:
    if match is None:
        raise InvalidSignatureError("not an address or id of ours")
    raw, tag = _unb32(match[1]), _unb32(match[2])
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

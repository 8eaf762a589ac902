"""The record of an inbound message for the topic `provider-webhooks`, and the check of recipient addresses. Pure.

The SMTP session, the maildir and the HTTP route use it.
"""

import hashlib
import re
from typing import Final

from pipeline.gateway.smtp.claims import is_signed_address
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.bounces.parse import (
    ENVELOPE_FROM_HEADER,
    ENVELOPE_TO_HEADER,
    SIGNED_ADDRESS_PATTERN,
    TRUNCATED_HEADER,
)
from topics.record import Millis
from topics.registry import MAX_RECORD_BYTES
from topics.webhooks import RawWebhook

MAIL_KIND: Final = "mail"
INBOUND_PROVIDER: Final = "inbound"
MESSAGE_KEPT_BYTES: Final = MAX_RECORD_BYTES - 20_000
"""Bytes of a message that are kept: a report comes first in it, and the returned original after that."""
ROLE_LOCAL_PARTS: Final = frozenset({"postmaster", "abuse", "fbl"})
"""Role addresses: required by RFC 5321 §4.5.1 and RFC 2142, and the one to register for feedback loops."""
_ADDRESS_MAX_CHARS: Final = 320


def is_accepted_address(address: str, domain: str, token_readers: TokenReaders) -> bool:
    """Return whether mail to this address is accepted.

    It is for role addresses, and for return paths and unsubscribe addresses that we signed.
    """
    local, _, host = address.strip("<> ").lower().rpartition("@")
    if host != domain.lower():
        return False
    return local in ROLE_LOCAL_PARTS or (
        SIGNED_ADDRESS_PATTERN.fullmatch(f"{local}@{host}") is not None
        and is_signed_address(f"{local}@{host}", token_readers)
    )


def is_in_mail_domain(address: str, domain: str) -> bool:
    """Return whether the address is in the mail domain."""
    return address.strip("<> ").lower().rpartition("@")[2] == domain.lower()


def mail_record(message: bytes, received_at: Millis, *, to: str = "", sender: str = "", size: int = 0) -> RawWebhook:
    """Return the record of a message; one larger than a record may be is cut off and marked as such.

    ``size`` is the whole message's, where ``message`` is only its beginning. The record's id is a digest of recipient
    and message, so that a repeated message gets the same id.
    """
    to, sender = _clean(to), _clean(sender)
    headers = [(ENVELOPE_TO_HEADER, to)] if to else []
    headers += [(ENVELOPE_FROM_HEADER, sender)] if sender else []
    size = max(size, len(message))
    headers += [(TRUNCATED_HEADER, str(size))] if size > MESSAGE_KEPT_BYTES else []
    digest = hashlib.sha256(to.encode("utf-8", "surrogateescape") + b"\0" + message)
    return RawWebhook(
        webhook_id=f"{MAIL_KIND}:{digest.hexdigest()[:32]}",
        provider=INBOUND_PROVIDER,
        kind=MAIL_KIND,
        received_at=received_at,
        headers=tuple(headers),
        body=message[:MESSAGE_KEPT_BYTES],
    )


def _clean(address: str) -> str:
    """Return an address without spaces and control characters, cut to its maximum length.

    It may come from the header of an HTTP request.
    """
    return re.sub(r"[\x00-\x20\x7f]", "", address)[:_ADDRESS_MAX_CHARS].encode("utf-8", "replace").decode()

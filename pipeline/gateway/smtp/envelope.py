"""A message and whom it came to in, its record for `provider-webhooks` out; which addresses are ours. Pure."""

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
"""Bytes of a message that are kept: a report stands first, and what it returns of the original comes after."""
ROLE_LOCAL_PARTS: Final = frozenset({"postmaster", "abuse", "fbl"})
"""Beside return paths: RFC 5321 §4.5.1 wants the first, RFC 2142 the second, feedback loops are registered for one."""
_ADDRESS_MAX_CHARS: Final = 320


def is_accepted_address(address: str, domain: str, proofs: TokenReaders) -> bool:
    """Return whether mail to this address is taken: a return path or unsubscribe address that we signed, or a role."""
    local, _, host = address.strip("<> ").lower().rpartition("@")
    if host != domain.lower():
        return False
    return local in ROLE_LOCAL_PARTS or (
        SIGNED_ADDRESS_PATTERN.fullmatch(f"{local}@{host}") is not None and is_signed_address(f"{local}@{host}", proofs)
    )


def is_in_mail_domain(address: str, domain: str) -> bool:
    """Whether the address is in the mail domain."""
    return address.strip("<> ").lower().rpartition("@")[2] == domain.lower()


def mail_record(message: bytes, received_at: Millis, *, to: str = "", sender: str = "", size: int = 0) -> RawWebhook:
    """The message as it goes on the log; its head only, and marked, where it is longer than a record may be.

    The id is the message's own, so that a repeat can be told from another message.
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
    """An address on one line, and sane: it may come from a header of somebody's HTTP request."""
    return re.sub(r"[\x00-\x20\x7f]", "", address)[:_ADDRESS_MAX_CHARS].encode("utf-8", "replace").decode()

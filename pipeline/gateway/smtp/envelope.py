"""A message and whom it came to in, its record for `provider-webhooks` out; which addresses are ours. Pure."""

import hashlib
import re
from typing import Final

from pipeline.gateway.smtp.claims import is_signed
from pipeline.webhooks.base import Proofs
from pipeline.webhooks.bounces.parse import FROM, OURS, TO, TRUNCATED
from topics.record import Millis
from topics.registry import MAX_RECORD_BYTES
from topics.webhooks import RawWebhook

KIND: Final = "mail"
PROVIDER: Final = "inbound"
KEPT: Final = MAX_RECORD_BYTES - 20_000
"""Bytes of a message that are kept: a report stands first, and what it returns of the original comes after."""
ROLES: Final = frozenset({"postmaster", "abuse", "fbl"})
"""Beside return paths: RFC 5321 §4.5.1 wants the first, RFC 2142 the second, feedback loops are registered for one."""
_LINE_MAX: Final = 320


def is_ours(address: str, domain: str, proofs: Proofs) -> bool:
    """Return whether mail to this address is taken: a return path or unsubscribe address that we signed, or a role."""
    local, _, host = address.strip("<> ").lower().rpartition("@")
    if host != domain.lower():
        return False
    return local in ROLES or (OURS.fullmatch(f"{local}@{host}") is not None and is_signed(f"{local}@{host}", proofs))


def in_our_domain(address: str, domain: str) -> bool:
    """Whether the address is in the mail domain."""
    return address.strip("<> ").lower().rpartition("@")[2] == domain.lower()


def record(message: bytes, received_at: Millis, *, to: str = "", sender: str = "", size: int = 0) -> RawWebhook:
    """The message as it goes on the log; its head only, and marked, where it is longer than a record may be.

    The id is the message's own, so that a repeat can be told from another message.
    """
    to, sender = _clean(to), _clean(sender)
    headers = [(TO, to)] if to else []
    headers += [(FROM, sender)] if sender else []
    size = max(size, len(message))
    headers += [(TRUNCATED, str(size))] if size > KEPT else []
    digest = hashlib.sha256(to.encode("utf-8", "surrogateescape") + b"\0" + message)
    return RawWebhook(
        webhook_id=f"{KIND}:{digest.hexdigest()[:32]}",
        provider=PROVIDER,
        kind=KIND,
        received_at=received_at,
        headers=tuple(headers),
        body=message[:KEPT],
    )


def _clean(address: str) -> str:
    """An address on one line, and sane: it may come from a header of somebody's HTTP request."""
    return re.sub(r"[\x00-\x20\x7f]", "", address)[:_LINE_MAX].encode("utf-8", "replace").decode()

"""Where a client is in a listing in, an opaque signed text out, and back. Pure: signing comes in from outside.

A cursor carries the whole question, so that `Next` alone goes on where it was; what is asked beside
it must agree. No address is in it.
"""

import hashlib
from typing import Final

import msgspec

from projections.history import HistoryFilter, HistoryPosition, HistoryQuery
from projections.opaque import InvalidCursor, SignedCursor, TagFunction, VerifyFunction
from topics.readings import ListedState
from topics.record import EmailId, Millis

CURSOR_MAX_CHARS: Final = 1000
"""Characters; ours have about 150."""


class InvalidHistoryCursor(ValueError):
    """`Next` is not a cursor of ours for this listing; begin again without it."""


class ListingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks beside its cursor."""

    filter: HistoryFilter
    after: int | None = None


class _HistoryCursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    as_of: Millis
    after: int | None
    sent_at: Millis
    email_id: EmailId
    brand_uuid: str
    listed: ListedState | None
    recipient: str


_CURSORS: Final = SignedCursor(b"cursor", _HistoryCursor, CURSOR_MAX_CHARS)


def encode_cursor(tag: TagFunction, query: HistoryQuery, after: int | None, behind: HistoryPosition) -> str:
    """The cursor that goes on behind ``behind``."""
    asked = query.filter
    inside = _HistoryCursor(
        1,
        query.as_of,
        after,
        behind.sent_at,
        behind.email_id,
        asked.brand_uuid,
        asked.listed,
        _digest(asked.recipient),
    )
    return _CURSORS.encode(tag, query.tenant, inside)


def decode_cursor(
    verify: VerifyFunction, tenant: str, text: str, given: ListingParameters
) -> tuple[HistoryQuery, int | None]:
    """The page that a cursor asks for and the `After` it began with. Raises BadCursor."""
    try:
        inside = _CURSORS.decode(verify, tenant, text)
    except InvalidCursor as error:
        raise InvalidHistoryCursor(f"Next is {error}") from None
    asked = given.filter
    if _digest(asked.recipient) != inside.recipient:
        raise InvalidHistoryCursor("Next belongs to another Email's listing; send the same Email with it")
    for name, now, begun in (
        ("BrandId", asked.brand_uuid or None, inside.brand_uuid),
        ("State", asked.listed, inside.listed),
        ("After", given.after, inside.after),
    ):
        if now is not None and now != begun and not asked.recipient:
            raise InvalidHistoryCursor(
                f"Next belongs to a listing with another {name}; send the same one, or Next alone"
            )
    behind = HistoryPosition(inside.sent_at, inside.email_id)
    then = HistoryFilter(brand_uuid=inside.brand_uuid, listed=inside.listed, recipient=asked.recipient)
    return HistoryQuery(tenant=tenant, filter=then, as_of=inside.as_of, start_after=behind), inside.after


def _digest(recipient: str) -> str:
    """Enough of a hash to tell addresses apart, so that none is in a cursor."""
    if not recipient:
        return ""
    return hashlib.sha256(recipient.encode("utf-8", "surrogatepass")).hexdigest()[:16]

"""Encodes a client's position in the history listing as an opaque signed cursor, and back. Pure: callers pass signing.

A cursor contains the whole query, so that `Next` alone continues a listing; parameters that a client sends beside it
must match. It contains no address. The history routes use it.
"""

import hashlib
from typing import Final

import msgspec

from projections.history import HistoryFilter, HistoryPosition, HistoryQuery
from projections.signed_cursor import InvalidCursor, SignedCursor, TagFunction, VerifyFunction
from topics.readings import ListedState
from topics.record import EmailId, Millis

CURSOR_MAX_CHARS: Final = 1000
"""Characters of a cursor, at most; ours have about 150."""


class InvalidHistoryCursor(ValueError):
    """`Next` is not a cursor of ours for this listing; begin again without it."""


class ListingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that a client sends beside its cursor."""

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


def encode_cursor(tag: TagFunction, query: HistoryQuery, after: int | None, position: HistoryPosition) -> str:
    """Return the cursor that continues a listing after ``position``."""
    history_filter = query.filter
    cursor = _HistoryCursor(
        1,
        query.as_of,
        after,
        position.sent_at,
        position.email_id,
        history_filter.brand_uuid,
        history_filter.listed,
        digest_address(history_filter.recipient),
    )
    return _CURSORS.encode(tag, query.tenant, cursor)


def decode_cursor(
    verify: VerifyFunction, tenant: str, text: str, parameters: ListingParameters
) -> tuple[HistoryQuery, int | None]:
    """Return the query that a cursor continues and the `After` it began with. Raises InvalidHistoryCursor."""
    try:
        cursor = _CURSORS.decode(verify, tenant, text)
    except InvalidCursor as error:
        raise InvalidHistoryCursor(f"Next is {error}") from None
    sent = parameters.filter
    if digest_address(sent.recipient) != cursor.recipient:
        raise InvalidHistoryCursor("Next belongs to another Email's listing; send the same Email with it")
    for name, value, original in (
        ("BrandId", sent.brand_uuid or None, cursor.brand_uuid),
        ("State", sent.listed, cursor.listed),
        ("After", parameters.after, cursor.after),
    ):
        if value is not None and value != original and not sent.recipient:
            raise InvalidHistoryCursor(
                f"Next belongs to a listing with another {name}; send the same one, or Next alone"
            )
    position = HistoryPosition(cursor.sent_at, cursor.email_id)
    history_filter = HistoryFilter(brand_uuid=cursor.brand_uuid, listed=cursor.listed, recipient=sent.recipient)
    return HistoryQuery(tenant=tenant, filter=history_filter, as_of=cursor.as_of, start_after=position), cursor.after


def digest_address(recipient: str) -> str:
    """Return enough of the address's hash to tell addresses apart; empty for no address."""
    if not recipient:
        return ""
    return hashlib.sha256(recipient.encode("utf-8", "surrogatepass")).hexdigest()[:16]

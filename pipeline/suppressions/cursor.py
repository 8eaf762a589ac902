"""Signed, opaque cursors for the pages of a listing of suppressions; the HTTP route uses them.

A cursor contains the listing's filters, so it suffices to get the next page; it contains no address. Pure: callers
pass the functions that sign and verify.
"""

from typing import Final

import msgspec

from pipeline.errors import Refused
from projections.signed_cursor import InvalidCursor, SignedCursor, TagFunction, VerifyFunction
from projections.suppressions import SuppressionListQuery, SuppressionPosition
from topics.suppressions import SuppressionReason

CURSOR_MAX_CHARS: Final = 2300
"""Enough for two brands of 200 characters, which may have 1600 bytes."""


class _SuppressionCursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    brand: str | None
    reason: SuppressionReason | None
    address_hash: bytes
    after_brand: str


_CURSORS: Final = SignedCursor(b"suppressions", _SuppressionCursor, CURSOR_MAX_CHARS)


def encode_cursor(tag: TagFunction, query: SuppressionListQuery, position: SuppressionPosition) -> str:
    """Return the cursor of the page that starts after ``position``."""
    cursor = _SuppressionCursor(1, query.brand, query.reason, position.address_hash, position.brand)
    return _CURSORS.encode(tag, query.tenant, cursor)


def decode_cursor(verify: VerifyFunction, text: str, query: SuppressionListQuery) -> SuppressionListQuery:
    """Return the query for the next page: the cursor's filters and position, with the limit of ``query``.

    Raise Refused if the cursor is invalid, or if ``query`` has filters that differ from the cursor's.
    """
    try:
        cursor = _CURSORS.decode(verify, query.tenant, text)
    except InvalidCursor as error:
        raise Refused(str(error), "next") from None
    for name, requested, original in (("brand", query.brand, cursor.brand), ("reason", query.reason, cursor.reason)):
        if requested is not None and requested != original:
            raise Refused(f"belongs to a listing with another {name}; send the same one, or next alone", "next")
    position = SuppressionPosition(cursor.address_hash, cursor.after_brand)
    return msgspec.structs.replace(query, brand=cursor.brand, reason=cursor.reason, start_after=position)

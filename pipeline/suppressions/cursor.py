"""A place in a listing of suppressions in, an opaque signed text out, and back. Pure: signing comes in from outside.

It carries the question, so that it alone goes on. No address is in it.
"""

from typing import Final

import msgspec

from pipeline.errors import Refused
from projections.opaque import InvalidCursor, SignedCursor, TagFunction, VerifyFunction
from projections.suppressions import SuppressionListQuery, SuppressionPosition
from topics.suppressions import SuppressionReason

CURSOR_MAX_CHARS: Final = 2300
"""Characters: two brands of 200 characters may have 1600 bytes."""


class _SuppressionCursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    brand: str | None
    reason: SuppressionReason | None
    address_hash: bytes
    after_brand: str


_CURSORS: Final = SignedCursor(b"suppressions", _SuppressionCursor, CURSOR_MAX_CHARS)


def encode_cursor(tag: TagFunction, asked: SuppressionListQuery, behind: SuppressionPosition) -> str:
    """The cursor that goes on behind ``behind``."""
    inside = _SuppressionCursor(1, asked.brand, asked.reason, behind.address_hash, behind.brand)
    return _CURSORS.encode(tag, asked.tenant, inside)


def decode_cursor(verify: VerifyFunction, text: str, asked: SuppressionListQuery) -> SuppressionListQuery:
    """The question that goes on; what is asked beside the cursor must be the same. Raises Refused."""
    try:
        inside = _CURSORS.decode(verify, asked.tenant, text)
    except InvalidCursor as error:
        raise Refused(str(error), "next") from None
    for name, now, begun in (("brand", asked.brand, inside.brand), ("reason", asked.reason, inside.reason)):
        if now is not None and now != begun:
            raise Refused(f"belongs to a listing with another {name}; send the same one, or next alone", "next")
    behind = SuppressionPosition(inside.address_hash, inside.after_brand)
    return msgspec.structs.replace(asked, brand=inside.brand, reason=inside.reason, start_after=behind)

"""A place in a listing of suppressions in, an opaque signed text out, and back. Pure: signing comes in from outside.

It carries the question, so that it alone goes on. No address is in it.
"""

from typing import Final

import msgspec

from pipeline.errors import Refused
from projections.opaque import Opaque, Strange, Tag, Verify
from projections.suppressions import Asked, Place
from topics.suppressions import Reason

LONGEST: Final = 2300
"""Characters: two brands of 200 characters may have 1600 bytes."""


class _Inside(msgspec.Struct, array_like=True, frozen=True):
    version: int
    brand: str | None
    reason: Reason | None
    address_hash: bytes
    after_brand: str


_CURSORS: Final = Opaque(b"suppressions", _Inside, LONGEST)


def write(tag: Tag, asked: Asked, behind: Place) -> str:
    """The cursor that goes on behind ``behind``."""
    inside = _Inside(1, asked.brand, asked.reason, behind.address_hash, behind.brand)
    return _CURSORS.write(tag, asked.tenant, inside)


def read(verify: Verify, text: str, asked: Asked) -> Asked:
    """The question that goes on; what is asked beside the cursor must be the same. Raises Refused."""
    try:
        inside = _CURSORS.read(verify, asked.tenant, text)
    except Strange as error:
        raise Refused(str(error), "next") from None
    for name, now, begun in (("brand", asked.brand, inside.brand), ("reason", asked.reason, inside.reason)):
        if now is not None and now != begun:
            raise Refused(f"belongs to a listing with another {name}; send the same one, or next alone", "next")
    behind = Place(inside.address_hash, inside.after_brand)
    return msgspec.structs.replace(asked, brand=inside.brand, reason=inside.reason, behind=behind)

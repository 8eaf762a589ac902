"""A place in a listing of suppressions in, an opaque signed text out, and back. Pure: signing comes in from outside.

It carries the question, so that it alone goes on, and it is bound to the tenant. No address is in it.
"""

import base64
from collections.abc import Callable
from typing import Final

import msgspec

from pipeline.errors import Refused
from projections.suppressions import Asked, Place
from topics.suppressions import Reason

Tag = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]

TAG_BYTES: Final = 16
LONGEST: Final = 2000


class _Inside(msgspec.Struct, array_like=True, frozen=True):
    version: int
    brand: str | None
    reason: Reason | None
    address_hash: bytes
    after_brand: str


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(_Inside).decode


def write(tag: Tag, asked: Asked, behind: Place) -> str:
    """The cursor that goes on behind ``behind``."""
    payload = _ENCODE(_Inside(1, asked.brand, asked.reason, behind.address_hash, behind.brand))
    return base64.urlsafe_b64encode(tag(_bound(asked.tenant, payload)) + payload).decode().rstrip("=")


def read(verify: Verify, text: str, asked: Asked) -> Asked:
    """The question that goes on; what is asked beside the cursor must be the same. Raises Refused."""
    inside = _inside(verify, text, asked.tenant)
    for name, now, begun in (("brand", asked.brand, inside.brand), ("reason", asked.reason, inside.reason)):
        if now is not None and now != begun:
            raise Refused(f"belongs to a listing with another {name}; send the same one, or next alone", "next")
    behind = Place(inside.address_hash, inside.after_brand)
    return msgspec.structs.replace(asked, brand=inside.brand, reason=inside.reason, behind=behind)


def _inside(verify: Verify, text: str, tenant: str) -> _Inside:
    if len(text) > LONGEST:
        raise Refused("too long to be a cursor of ours", "next")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Refused("not a cursor of ours", "next") from None
    tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
    if not verify(_bound(tenant, payload), tag):
        raise Refused("not a cursor of ours, or given to another tenant", "next")
    try:
        return _DECODE(payload)
    except msgspec.MsgspecError:
        raise Refused("given by another version of this service; begin again without it", "next") from None


def _bound(tenant: str, payload: bytes) -> bytes:
    # A tenant's name has no NUL, so the two can't run together.
    return b"suppressions\x00" + tenant.encode() + b"\x00" + payload

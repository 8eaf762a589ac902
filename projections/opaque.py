"""A client's place in a listing in, an opaque signed text out, and back. Pure: signing comes in from outside.

The tag is bound to the listing and to the tenant: another's text is as good as a forged one.
"""

import base64
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

TagFunction = Callable[[bytes], bytes]
VerifyFunction = Callable[[bytes, bytes], bool]
T = TypeVar("T")

TAG_BYTES: Final = 16
_ENCODE: Final = msgspec.msgpack.Encoder().encode


class InvalidCursor(ValueError):
    """What a text is that is no place in this listing: "not a cursor of ours"."""


class SignedCursor(Generic[T]):
    """The texts of one listing."""

    def __init__(self, listing: bytes, inside: type[T], longest: int) -> None:
        self._listing = listing
        self._decode = msgspec.msgpack.Decoder(inside).decode
        # In characters. Nobody gets to make us decode megabytes.
        self._longest = longest

    def encode(self, tag: TagFunction, tenant: str, inside: T) -> str:
        """A text for this tenant."""
        payload = _ENCODE(inside)
        return base64.urlsafe_b64encode(tag(self._bound(tenant, payload)) + payload).decode().rstrip("=")

    def decode(self, verify: VerifyFunction, tenant: str, text: str) -> T:
        """What this tenant was given. Raises Strange."""
        if len(text) > self._longest:
            raise InvalidCursor("too long to be a cursor of ours")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise InvalidCursor("not a cursor of ours") from None
        tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
        if not verify(self._bound(tenant, payload), tag):
            raise InvalidCursor("not a cursor of ours, or given to another tenant")
        try:
            return self._decode(payload)
        except msgspec.MsgspecError:
            raise InvalidCursor("of another version of this service; begin again without it") from None

    def _bound(self, tenant: str, payload: bytes) -> bytes:
        # A tenant's name has no NUL, so the two can't run together.
        return self._listing + b"\x00" + tenant.encode() + b"\x00" + payload

"""Signed opaque cursors for listings. Pure: callers pass the signing functions; `cursor` and the listings use it.

The signature covers the listing's name and the tenant: another tenant's cursor is as invalid as a forged one.
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
    """A text is not a valid cursor of this listing; the message completes the sentence "the cursor is …"."""


class SignedCursor(Generic[T]):
    """Encodes and decodes the cursors of one listing."""

    def __init__(self, listing: bytes, payload_type: type[T], max_chars: int) -> None:
        self._listing = listing
        self._decode = msgspec.msgpack.Decoder(payload_type).decode
        self._max_chars = max_chars

    def encode(self, tag: TagFunction, tenant: str, cursor: T) -> str:
        """Return a cursor's text for this tenant."""
        payload = _ENCODE(cursor)
        return base64.urlsafe_b64encode(tag(self._signed_bytes(tenant, payload)) + payload).decode().rstrip("=")

    def decode(self, verify: VerifyFunction, tenant: str, text: str) -> T:
        """Return the cursor that this tenant got as ``text``. Raises InvalidCursor."""
        if len(text) > self._max_chars:
            raise InvalidCursor("too long to be a cursor of ours")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise InvalidCursor("not a cursor of ours") from None
        tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
        if not verify(self._signed_bytes(tenant, payload), tag):
            raise InvalidCursor("not a cursor of ours, or given to another tenant")
        try:
            return self._decode(payload)
        except msgspec.MsgspecError:
            raise InvalidCursor("of another version of this service; begin again without it") from None

    def _signed_bytes(self, tenant: str, payload: bytes) -> bytes:
        # A tenant's name has no NUL, so the end of the tenant is unambiguous.
        return self._listing + b"\x00" + tenant.encode() + b"\x00" + payload

"""Signed opaque cursors of the history API: a place in a listing of emails, and a place in the feed of changes.

Pure: callers pass signing. A listing's cursor contains the whole question, except an address, of which it has a tag.
"""

from typing import Any, Final

import msgspec

from projections.email_listing import ChangePosition, EmailFilter, EmailOrder, EmailPosition, EmailQuery
from projections.signed_cursor import SignedCursor, TagFunction, VerifyFunction
from topics.record import EmailId, Millis

CURSOR_MAX_CHARS: Final = 16_000
"""Characters of a cursor, at most: a filter may have many long values."""
_VERSION: Final = 2


class OtherListing(ValueError):
    """A cursor belongs to another question than the one it was sent with; the message names the parameter."""


class EmailQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for in a listing; None and empty values are not asked."""

    filter: EmailFilter = EmailFilter()
    as_of: Millis | None = None
    order: EmailOrder | None = None
    descending: bool | None = None
    limit: int | None = None
    fields: tuple[str, ...] = ()


class _EmailCursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    question: EmailQuestion
    recipient: bytes
    """The tag of the address: without the key nobody can find the address by trying."""
    as_of: Millis
    at: Millis
    email_id: EmailId


class _ChangeCursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    valid_from: Millis
    email_id: EmailId
    nth: int


_EMAIL_CURSORS: Final = SignedCursor(b"emails", _EmailCursor, CURSOR_MAX_CHARS)
_CHANGE_CURSORS: Final = SignedCursor(b"changes", _ChangeCursor, 500)


def encode_email_cursor(tag: TagFunction, query: EmailQuery, question: EmailQuestion, position: EmailPosition) -> str:
    """Return the cursor that continues a listing after ``position``."""
    recipient = question.filter.recipient or ""
    own = msgspec.structs.replace(question, filter=msgspec.structs.replace(question.filter, recipient=None))
    recipient_tag = tag(_address_bytes(query.tenant, recipient)) if recipient else b""
    cursor = _EmailCursor(_VERSION, own, recipient_tag, query.as_of, position.at, position.email_id)
    return _EMAIL_CURSORS.encode(tag, query.tenant, cursor)


def decode_email_cursor(
    verify: VerifyFunction, tenant: str, text: str, sent: EmailQuestion
) -> tuple[EmailQuestion, Millis, EmailPosition]:
    """Return the question that a cursor continues, the moment of its listing and the position.

    ``sent``: what the client sent beside the cursor; it must repeat the address, and may repeat the rest. Raises
    InvalidCursor, and OtherListing for a parameter with another value.
    """
    cursor = _EMAIL_CURSORS.decode(verify, tenant, text)
    recipient = sent.filter.recipient or ""
    if bool(recipient) != bool(cursor.recipient):
        raise OtherListing("recipient")
    if recipient and not verify(_address_bytes(tenant, recipient), cursor.recipient):
        raise OtherListing("recipient")
    original = msgspec.structs.replace(
        cursor.question, filter=msgspec.structs.replace(cursor.question.filter, recipient=sent.filter.recipient)
    )
    _require_same(sent.filter, original.filter)
    _require_same(msgspec.structs.replace(sent, filter=original.filter), original)
    return original, cursor.as_of, EmailPosition(cursor.at, cursor.email_id)


def _address_bytes(tenant: str, recipient: str) -> bytes:
    return b"recipient\x00" + tenant.encode() + b"\x00" + recipient.encode("utf-8", "surrogatepass")


def _require_same(sent: Any, original: Any) -> None:
    """Raise OtherListing for a field that was sent with another value."""
    for name in sent.__struct_fields__:
        value = getattr(sent, name)
        if value not in (None, ()) and value != getattr(original, name):
            raise OtherListing(name)


def encode_change_cursor(tag: TagFunction, tenant: str, position: ChangePosition) -> str:
    """Return the token from which the feed of changes goes on."""
    cursor = _ChangeCursor(_VERSION, position.valid_from, position.email_id, position.version)
    return _CHANGE_CURSORS.encode(tag, tenant, cursor)


def decode_change_cursor(verify: VerifyFunction, tenant: str, text: str) -> ChangePosition:
    """Return the position of a token. Raises InvalidCursor."""
    cursor = _CHANGE_CURSORS.decode(verify, tenant, text)
    return ChangePosition(cursor.valid_from, cursor.email_id, cursor.nth)

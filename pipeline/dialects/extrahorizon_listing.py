"""Say by which fields Extra Horizon's mails can be found, and encode pages of them. Pure.

`pipeline.gateway.routes.extrahorizon` calls it. The mails come from Postgres as JSON, as they were stored.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from pipeline.dialects.masking import mask_addresses, mask_value
from pipeline.dialects.rql import RqlFields
from projections.listing_query import ListingQuery, field_selection, selected_fields

MAIL_FIELDS: Final = RqlFields(
    texts=frozenset(
        {
            *("id", "creator_id", "aws_message_id", "subject", "body", "from", "reply_to", "template_id"),
            *("template_name", "language", "time_zone", "recipients.to", "recipients.cc", "recipients.bcc"),
        }
    ),
    numbers=frozenset({"views"}),
    times=frozenset({"creation_timestamp", "update_timestamp"}),
    open=frozenset({"content"}),
)
QUEUED_MAIL_FIELDS: Final = RqlFields(
    texts=frozenset({"id", "status", "from", "to", "cc", "bcc", "reply_to", "subject", "text"}),
    numbers=frozenset(),
    times=frozenset({"creation_timestamp", "update_timestamp"}),
    open=frozenset({"template_data"}),
)
_CLEAR_FIELDS: Final = frozenset(
    {
        *("id", "creator_id", "aws_message_id", "from", "template_id", "template_name", "language", "time_zone"),
        *("status", "views", "creation_timestamp", "update_timestamp"),
    }
)
"""Fields that hold no address, or our own."""
_RECIPIENT_FIELDS: Final = frozenset({"recipients", "to", "cc", "bcc"})
MASKED_MAIL_FIELDS: Final = msgspec.structs.replace(
    MAIL_FIELDS, hidden=frozenset({"recipients", "reply_to", "subject", "body", "content"})
)
"""The fields for callers who may not see addresses: whoever could filter by a masked field could guess it."""
MASKED_QUEUED_MAIL_FIELDS: Final = msgspec.structs.replace(
    QUEUED_MAIL_FIELDS, hidden=frozenset({"to", "cc", "bcc", "reply_to", "subject", "text", "template_data"})
)

_encode: Final = msgspec.json.Encoder().encode


def encode_page(
    mails: Sequence[str], total: int | None, query: ListingQuery, *, masks_addresses: bool = False
) -> bytes:
    """Return the JSON of a listing's page.

    ``mails``: the JSON of each; ``total``: the number of matching mails, None if they weren't counted.
    """
    if masks_addresses:
        mails = [_encode(_masked(msgspec.json.decode(mail))).decode() for mail in mails]
    data: Iterable[Any] = map(msgspec.Raw, (mail.encode() for mail in mails))
    if query.select:
        selection = field_selection(("id",), *query.select)
        data = [selected_fields(msgspec.json.decode(mail), selection) for mail in mails]
    total_field = {} if total is None else {"total": total}
    return _encode({"page": {**total_field, "offset": query.offset, "limit": query.limit}, "data": list(data)})


def _masked(mail: dict[str, Any]) -> dict[str, Any]:
    """Return a mail without recipients' addresses, and without what looks like an address in its texts."""
    return {
        name: value if name in _CLEAR_FIELDS else (mask_addresses if name in _RECIPIENT_FIELDS else mask_value)(value)
        for name, value in mail.items()
    }

"""A request that is larger than a record in, parts that fit out, and each part's events back.

A refusal would be repeated until the provider gives up or turns the webhook off, and the events be lost; so what the
adapter can take apart is kept in parts. A part lies under a header of ours that no request can bring.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks.base import Adapter

PART_HEADER: Final = "mailfold-part"
"""The header of a part; nothing that a request brings has this name (`pipeline.gateway.webhook_record`)."""
MAX_CUT_EVENT_BYTES: Final = 100_000
"""What is kept of an event that alone is larger than a record."""
_ITEM_OVERHEAD_BYTES: Final = 8
"""What MessagePack adds to an event, at most."""
_EVENTS: Final = msgspec.msgpack.Decoder(list[bytes])


class WebhookPart(msgspec.Struct, frozen=True):
    """A body that fits a record; ``note``: the value of its header, empty for a whole request."""

    body: bytes
    note: str = ""


def split_into_parts(adapter: Adapter, body: bytes, headers: Mapping[str, str], room: int) -> list[WebhookPart]:
    """The body itself where it fits into ``room`` bytes, else its events in parts that do.

    What can't be taken apart is cut: its beginning becomes a dead letter that says so, and the rest is unaffected.
    """
    if len(body) <= room:
        return [WebhookPart(body)]
    try:
        events = adapter.split(body, headers)
    except Unrecognised:
        return [_cut(body)]
    fitting = [event for event in events if len(event) + _ITEM_OVERHEAD_BYTES <= room]
    whole = [WebhookPart(msgspec.msgpack.encode(some), "events") for some in _packed(fitting, room)]
    return whole + [_cut(event) for event in events if len(event) + _ITEM_OVERHEAD_BYTES > room] or [_cut(body)]


def events_of(adapter: Adapter, body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """A request's or a part's events. Raises Unrecognised."""
    note = headers.get(PART_HEADER)
    if note is None:
        return adapter.split(body, headers)
    try:
        return _EVENTS.decode(body)
    except msgspec.MsgspecError:
        raise Unrecognised(f"larger than a record, and not to be taken apart: {note}") from None


def _cut(body: bytes) -> WebhookPart:
    # The first byte is no MessagePack array's, whatever follows.
    return WebhookPart(b"\xc1" + body[:MAX_CUT_EVENT_BYTES], f"the first {MAX_CUT_EVENT_BYTES} of {len(body)} bytes")


def _packed(events: Iterable[bytes], room: int) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = _ITEM_OVERHEAD_BYTES
    for event in events:
        size += len(event) + _ITEM_OVERHEAD_BYTES
        if size > room and some:
            yield some
            some, size = [], len(event) + 2 * _ITEM_OVERHEAD_BYTES
        some.append(event)
    if some:
        yield some

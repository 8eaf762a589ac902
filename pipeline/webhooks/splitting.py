"""Split webhook requests that are larger than a Kafka record into parts, and read the events of a part.

The gateway splits, and the normalizer reads. Refusing a large request would lose its events: the provider would repeat
it until it gives up or disables the webhook. A part is marked by PART_HEADER, which the gateway removes from requests.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks.base import Adapter

PART_HEADER: Final = "mailfold-part"
"""The header of a part; a request's own header of this name is not stored (`pipeline.gateway.webhook_record`)."""
MAX_CUT_EVENT_BYTES: Final = 100_000
"""Bytes that are kept of an event that alone is larger than a record."""
_ITEM_OVERHEAD_BYTES: Final = 8
"""Bytes that MessagePack adds to an event at most."""
_EVENTS: Final = msgspec.msgpack.Decoder(list[bytes])


class WebhookPart(msgspec.Struct, frozen=True):
    """A body that fits into a record."""

    body: bytes
    note: str = ""
    """The value of PART_HEADER; empty for a whole request."""


def split_into_parts(adapter: Adapter, body: bytes, headers: Mapping[str, str], max_bytes: int) -> list[WebhookPart]:
    """Return the whole body if it has at most ``max_bytes``, else its events in parts of at most so many.

    A body that cannot be split and an event that is too large are cut: the normalizer makes a dead letter of their
    beginning.
    """
    if len(body) <= max_bytes:
        return [WebhookPart(body)]
    try:
        events = adapter.split(body, headers)
    except Unrecognised:
        return [_cut(body)]
    fitting = [event for event in events if len(event) + _ITEM_OVERHEAD_BYTES <= max_bytes]
    parts = [WebhookPart(msgspec.msgpack.encode(batch), "events") for batch in _batches(fitting, max_bytes)]
    return parts + [_cut(event) for event in events if len(event) + _ITEM_OVERHEAD_BYTES > max_bytes] or [_cut(body)]


def events_of(adapter: Adapter, body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events of a request or of a part. Raise Unrecognised."""
    note = headers.get(PART_HEADER)
    if note is None:
        return adapter.split(body, headers)
    try:
        return _EVENTS.decode(body)
    except msgspec.MsgspecError:
        raise Unrecognised(f"larger than a record, and not to be taken apart: {note}") from None


def _cut(body: bytes) -> WebhookPart:
    # 0xc1 begins no MessagePack value, so that `events_of` always raises Unrecognised.
    return WebhookPart(b"\xc1" + body[:MAX_CUT_EVENT_BYTES], f"the first {MAX_CUT_EVENT_BYTES} of {len(body)} bytes")


def _batches(events: Iterable[bytes], max_bytes: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = _ITEM_OVERHEAD_BYTES
    for event in events:
        size += len(event) + _ITEM_OVERHEAD_BYTES
        if size > max_bytes and batch:
            yield batch
            batch, size = [], len(event) + 2 * _ITEM_OVERHEAD_BYTES
        batch.append(event)
    if batch:
        yield batch

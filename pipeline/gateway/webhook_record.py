"""Conversion of a verified webhook into records for the log; the webhook routes call it.

Of its headers only those are kept that normalization needs, none with credentials or addresses.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from pipeline.admin import Provider
from pipeline.runtime.ports import NewId
from pipeline.webhooks.base import Adapter
from pipeline.webhooks.splitting import PART_HEADER, split_into_parts
from topics.record import Millis
from topics.registry import MAX_RECORD_BYTES
from topics.webhooks import RawWebhook

RECORD_BODY_MAX_BYTES: Final = MAX_RECORD_BYTES - 20_000
"""Body bytes of one record; the rest is for headers and the other fields."""
REQUEST_MAX_BYTES: Final = 16_000_000
"""SparkPost and Mandrill send the largest batches; encoding them as a form adds half of their size."""
KEPT_HEADERS_MAX_BYTES: Final = 16_000
_KEPT_HEADER: Final = re.compile(r"x-|svix-|webhook-|content-type$|mailtrap-|signature$")
"""Providers' own headers, those of Standard Webhooks (https://www.standardwebhooks.com), and the content type."""
_SECRET_HEADER: Final = re.compile(r"key$|token|secret|passw|auth|cookie|session|forwarded|(^|-)ip$")
"""Headers that are never kept: credentials and addresses of the sender."""


class VerifiedWebhook(msgspec.Struct, frozen=True):
    """A webhook whose signature was verified."""

    provider: Provider
    adapter: Adapter
    headers: Mapping[str, str]
    body: bytes


def split_into_records(webhook: VerifiedWebhook, new_id: NewId, now: Millis) -> list[RawWebhook]:
    """Return the webhook as one record, or as several if it is larger than a record may be."""
    headers = kept_headers(webhook.headers.items())
    return [
        RawWebhook(
            webhook_id=new_id(),
            provider=webhook.provider.provider,
            kind=webhook.provider.kind,
            received_at=now,
            headers=(*headers, (PART_HEADER, part.note)) if part.note else headers,
            body=part.body,
        )
        for part in split_into_parts(webhook.adapter, webhook.body, webhook.headers, RECORD_BODY_MAX_BYTES)
    ]


def kept_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the headers that are kept, up to ``KEPT_HEADERS_MAX_BYTES`` in total."""
    kept = []
    bytes_left = KEPT_HEADERS_MAX_BYTES
    for name, value in headers:
        if _KEPT_HEADER.match(name) and not _SECRET_HEADER.search(name):
            bytes_left -= len(name) + len(value)
            if bytes_left >= 0:
                kept.append((name, value))
    return tuple(kept)

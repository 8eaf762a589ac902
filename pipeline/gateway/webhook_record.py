"""An authentic request in, the records that keep it out; of its headers what tells, nobody's credentials or address."""

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
"""Of a record, headers and the rest take their part."""
REQUEST_MAX_BYTES: Final = 16_000_000
"""SparkPost's and Mandrill's batches are the largest; a form's are half as large again as what they say."""
KEPT_HEADERS_MAX_BYTES: Final = 16_000
_KEPT_HEADER: Final = re.compile(r"x-|svix-|webhook-|content-type$|mailtrap-|signature$")
"""What a provider says in headers: its own, Standard Webhooks' (https://www.standardwebhooks.com), the type."""
_SECRET_HEADER: Final = re.compile(r"key$|token|secret|passw|auth|cookie|session|forwarded|(^|-)ip$")
"""Never kept: what proves who asks, and from where."""


class VerifiedWebhook(msgspec.Struct, frozen=True):
    """A request that was verified."""

    provider: Provider
    adapter: Adapter
    headers: Mapping[str, str]
    body: bytes


def split_into_records(taken: VerifiedWebhook, new_id: NewId, now: Millis) -> list[RawWebhook]:
    """One, or several where it is larger than a record."""
    headers = kept_headers(taken.headers.items())
    return [
        RawWebhook(
            webhook_id=new_id(),
            provider=taken.provider.provider,
            kind=taken.provider.kind,
            received_at=now,
            headers=(*headers, (PART_HEADER, part.note)) if part.note else headers,
            body=part.body,
        )
        for part in split_into_parts(taken.adapter, taken.body, taken.headers, RECORD_BODY_MAX_BYTES)
    ]


def kept_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The headers that are kept."""
    kept = []
    room = KEPT_HEADERS_MAX_BYTES
    for name, value in headers:
        if _KEPT_HEADER.match(name) and not _SECRET_HEADER.search(name):
            room -= len(name) + len(value)
            if room >= 0:
                kept.append((name, value))
    return tuple(kept)

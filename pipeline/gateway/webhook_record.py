"""An authentic request in, the records that keep it out; of its headers what tells, nobody's credentials or address."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from pipeline.admin import Provider
from pipeline.runtime.ports import NewId
from pipeline.webhooks.base import Adapter
from pipeline.webhooks.splitting import PART, parts
from topics.record import Millis
from topics.registry import MAX_RECORD_BYTES
from topics.webhooks import RawWebhook

BODY_MAX: Final = MAX_RECORD_BYTES - 20_000
"""Of a record, headers and the rest take their part."""
LARGE_MAX: Final = 16_000_000
"""SparkPost's and Mandrill's batches are the largest; a form's are half as large again as what they say."""
HEADERS_MAX: Final = 16_000
_TOLD: Final = re.compile(r"x-|svix-|webhook-|content-type$|mailtrap-|signature$")
"""What a provider says in headers: its own, Standard Webhooks' (https://www.standardwebhooks.com), the type."""
_SECRET: Final = re.compile(r"key$|token|secret|passw|auth|cookie|session|forwarded|(^|-)ip$")
"""Never kept: what proves who asks, and from where."""


class Taken(msgspec.Struct, frozen=True):
    """A request that was verified."""

    row: Provider
    reader: Adapter
    headers: Mapping[str, str]
    body: bytes


def records(taken: Taken, new_id: NewId, now: Millis) -> list[RawWebhook]:
    """One, or several where it is larger than a record."""
    headers = relevant(taken.headers.items())
    return [
        RawWebhook(
            webhook_id=new_id(),
            provider=taken.row.provider,
            kind=taken.row.kind,
            received_at=now,
            headers=(*headers, (PART, part.note)) if part.note else headers,
            body=part.body,
        )
        for part in parts(taken.reader, taken.body, taken.headers, BODY_MAX)
    ]


def relevant(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The headers that are kept."""
    kept = []
    room = HEADERS_MAX
    for name, value in headers:
        if _TOLD.match(name) and not _SECRET.search(name):
            room -= len(name) + len(value)
            if room >= 0:
                kept.append((name, value))
    return tuple(kept)

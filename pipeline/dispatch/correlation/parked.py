"""Find the parked events of a provider's message id, or that claim an email; commands show them."""

from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from pipeline.webhooks.provider_message_ids import match_key
from projections.columns import is_storable_id
from projections.sql import SqlQueries
from topics.codec import decode
from topics.record import EmailId, LogPosition, Millis
from topics.registry import UNCORRELATED_EVENTS

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
MAX_PARKED_EVENTS: Final = 20


class ParkedEvent(msgspec.Struct, frozen=True):
    """An event that waits for the ack that tells its email."""

    provider: str
    provider_message_id: str
    kind: str
    occurred_at: Millis
    parked_at: Millis
    place: str
    claimed_email_id: EmailId = EmailId("")
    """The email that the event names without proof."""


async def find_parked_events(connection: psycopg.AsyncConnection[Any], name: str) -> list[ParkedEvent]:
    """Return the oldest parked events with this message id or claimed email; at most MAX_PARKED_EVENTS."""
    claimed = name.strip().lower()
    values = {
        "message_id": match_key(name),
        "claimed": claimed if is_storable_id(claimed) else None,
        "limit": MAX_PARKED_EVENTS,
    }
    return [_parked_event(row) for row in await (await connection.execute(SQL["parked_as"], values)).fetchall()]


def _parked_event(row: tuple[Any, ...]) -> ParkedEvent:
    provider, message_id, parked_at, partition, offset, payload = row
    event = decode(UNCORRELATED_EVENTS, payload)
    position = LogPosition(topic=UNCORRELATED_EVENTS.name, partition=partition, offset=offset)
    return ParkedEvent(
        provider,
        message_id,
        event.kind.value,
        event.occurred_at,
        parked_at,
        str(position),
        event.claimed_email_id,
    )

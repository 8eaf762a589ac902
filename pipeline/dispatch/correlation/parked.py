"""A provider's message id in, the events that wait under it out; what people ask while it is parked."""

from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from pipeline.webhooks.message_ids import match_key
from projections.sql import SqlQueries
from topics.codec import decode
from topics.record import LogPosition, Millis
from topics.registry import UNCORRELATED_EVENTS

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
MAX_PARKED_EVENTS: Final = 20


class ParkedEvent(msgspec.Struct, frozen=True):
    """An event that waits for the ack that says whose it is."""

    provider: str
    provider_message_id: str
    kind: str
    occurred_at: Millis
    parked_at: Millis
    place: str


async def find_parked_events(connection: psycopg.AsyncConnection[Any], name: str) -> list[ParkedEvent]:
    """The first events that wait under this id, whichever provider's."""
    values = {"message_id": match_key(name), "limit": MAX_PARKED_EVENTS}
    return [_parked(row) for row in await (await connection.execute(SQL["parked_as"], values)).fetchall()]


def _parked(row: tuple[Any, ...]) -> ParkedEvent:
    provider, message_id, parked_at, partition, place, event = row
    told = decode(UNCORRELATED_EVENTS, event)
    where = LogPosition(topic=UNCORRELATED_EVENTS.name, partition=partition, offset=place)
    return ParkedEvent(provider, message_id, told.kind.value, told.occurred_at, parked_at, str(where))

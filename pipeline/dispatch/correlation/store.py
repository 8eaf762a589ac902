"""Write message ids and parked events to Postgres and match them. Called by the correlation loop."""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from pipeline.dispatch.correlation.parked import SQL
from pipeline.dispatch.correlation.parse import CorrelationBatch, MessageKey, UncorrelatedEvent
from projections.columns import is_storable_id
from topics.codec import encode
from topics.registry import UNCORRELATED_EVENTS


async def write_and_match(
    connection: psycopg.AsyncConnection[Any], batch: CorrelationBatch, events: Sequence[UncorrelatedEvent]
) -> int:
    """Insert the ids of a batch and park ``events``, match both sides, and return how many events were matched.

    It runs in the caller's transaction. Both sides are inserted before they are matched, so that neither can miss
    the other.
    """
    await connection.execute(SQL["alone"])
    if batch.ids:
        keys, emails = zip(*batch.ids, strict=True)
        values = {"email_ids": list(emails), "recorded": list(batch.ids.values())}
        await connection.execute(SQL["learn"], key_columns(keys) | values)
    if events:
        values = {
            "partitions": [each.partition for each in events],
            "places": [each.place for each in events],
            "since": [each.since for each in events],
            "events": [encode(UNCORRELATED_EVENTS, each.event) for each in events],
            "claimed": [claimed if is_storable_id(claimed := each.event.claimed_email_id) else None for each in events],
        }
        await connection.execute(SQL["park"], key_columns(each.key for each in events) | values)
    touched = {key for key, _ in batch.ids} | {each.key for each in events}
    return (await connection.execute(SQL["match"], key_columns(touched))).rowcount if touched else 0


def key_columns(keys: Iterable[MessageKey]) -> dict[str, Any]:
    """Return message keys as the column parameters of the SQL statements."""
    key_list = list(keys)
    return {
        "message_ids": [message_id for _, message_id in key_list],
        "providers": [provider for provider, _ in key_list],
    }

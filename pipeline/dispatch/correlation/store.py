"""What correlation learnt in, its rows out: both sides of a look-up, so that neither misses the other."""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from pipeline.dispatch.correlation.parked import SQL
from pipeline.dispatch.correlation.parse import CorrelationBatch, MessageKey, UncorrelatedEvent
from topics.codec import encode
from topics.registry import UNCORRELATED_EVENTS


async def write_and_match(
    connection: psycopg.AsyncConnection[Any], learnt: CorrelationBatch, waiting: Sequence[UncorrelatedEvent]
) -> int:
    """Insert both sides, then look for the other, in the caller's transaction; how many found theirs."""
    await connection.execute(SQL["alone"])
    if learnt.ids:
        keys, emails = zip(*learnt.ids, strict=True)
        values = {"email_ids": list(emails), "recorded": list(learnt.ids.values())}
        await connection.execute(SQL["learn"], key_columns(keys) | values)
    if waiting:
        values = {
            "partitions": [one.partition for one in waiting],
            "places": [one.place for one in waiting],
            "since": [one.since for one in waiting],
            "events": [encode(UNCORRELATED_EVENTS, one.event) for one in waiting],
        }
        await connection.execute(SQL["park"], key_columns(one.key for one in waiting) | values)
    touched = {key for key, _ in learnt.ids} | {one.key for one in waiting}
    return (await connection.execute(SQL["match"], key_columns(touched))).rowcount if touched else 0


def key_columns(keys: Iterable[MessageKey]) -> dict[str, Any]:
    """Keys as columns."""
    listed = list(keys)
    return {"message_ids": [name for _, name in listed], "providers": [provider for provider, _ in listed]}

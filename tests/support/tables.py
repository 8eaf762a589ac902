"""What lies in the projections' tables, for comparing two of them; and nothing in them."""

from typing import Any

import psycopg

TABLES = {
    "history": "select * from projections.history order by email_id",
    "versions": "select * from projections.versions order by email_id, version",
    "timeline": "select * from projections.timeline order by email_id, event_id",
    "evidence": "select * from projections.evidence order by tenant, address_hash, brand, email_id, reason",
    "mails": "select * from projections.mails order by mail_id",
    "next_offsets": "select * from projections.next_offsets order by partition",
    "identities": "select * from intake.identities order by email_id",
    "jobs": "select queue, stream, seq, name, lane, state, payload from jobs.jobs order by queue, stream, seq",
}


async def tables(connection: psycopg.AsyncConnection[Any], *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of these tables, or of all."""
    found = {}
    for name in names or TABLES:
        found[name] = await (await connection.execute(TABLES[name])).fetchall()  # type: ignore[call-overload,unused-ignore]
    return found


async def empty(connection: psycopg.AsyncConnection[Any]) -> None:
    """As before anything was projected."""
    await connection.execute(
        "truncate projections.history, projections.versions, projections.timeline, projections.evidence,"
        " projections.mails, projections.next_offsets, intake.identities, jobs.jobs"
    )

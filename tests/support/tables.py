"""Read the rows of the projections' tables, to compare them, and empty the tables."""

from typing import Any

import psycopg

TABLES = {
    "history": "select * from projections.history order by email_id",
    "versions": "select * from projections.versions order by email_id, version",
    "requests": "select * from projections.requests order by email_id",
    "superseded_facts": "select * from projections.superseded_facts order by email_id, event_id, revision",
    "timeline": "select * from projections.timeline order by email_id, event_id",
    "evidence": "select * from projections.evidence order by tenant, address_hash, brand, email_id, reason",
    "mails": "select * from projections.mails order by mail_id",
    "statistics": "select * from projections.statistics order by tenant, by_event, slot, group_id, provider, partition",
    "statistics_groups": "select * from projections.statistics_groups order by group_id",
    "statistics_campaigns": "select * from projections.statistics_campaigns c order by c::text",
    "statistics_coverage": "select * from projections.statistics_coverage",
    "next_offsets": "select * from projections.next_offsets order by partition",
    "identities": "select * from intake.identities order by email_id",
    "jobs": "select queue, stream, seq, name, lane, state, payload from jobs.jobs order by queue, stream, seq",
}


async def tables(connection: psycopg.AsyncConnection[Any], *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of these tables, or of all, by table."""
    contents = {}
    for name in names or TABLES:
        contents[name] = await (await connection.execute(TABLES[name])).fetchall()  # type: ignore[call-overload,unused-ignore]
    return contents


async def empty(connection: psycopg.AsyncConnection[Any]) -> None:
    """Empty all tables, as before anything was projected."""
    await connection.execute(
        "truncate projections.history, projections.versions, projections.timeline, projections.evidence,"
        " projections.statistics, projections.statistics_groups, projections.statistics_campaigns,"
        " projections.requests, projections.superseded_facts, projections.mails,"
        " projections.next_offsets, intake.identities, jobs.jobs"
    )

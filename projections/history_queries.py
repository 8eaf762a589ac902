"""Queries of the projections: pages of the history, one email with its timeline and jobs, the projected time."""

from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.history import PAGE_MAX_EMAILS, HistoryPage, HistoryPosition, HistoryQuery, HistoryRow, page_of_rows
from projections.sql import SqlQueries
from projections.text import storable_text
from projections.timeline import TimelineFact
from topics.changes import Fact
from topics.codec import decode
from topics.record import EmailId, Millis
from topics.registry import EMAIL_CHANGES, EMAIL_STATES
from topics.states import EmailState

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))

TOPIC: Final = EMAIL_CHANGES.name
Connection = psycopg.AsyncConnection[Any]
decode_fact: Final = msgspec.json.Decoder(Fact).decode


class EmailHistory(msgspec.Struct, frozen=True):
    """One email's state, timeline and jobs."""

    state: EmailState
    version: int
    since: Millis
    partition: int
    timeline: list[TimelineFact]
    jobs: list[dict[str, Any]]


async def latest_projected_time(connection: Connection) -> Millis:
    """Return the latest time up to which every partition is projected; later changes become valid after it."""
    row = await (await connection.execute(SQL["watermark"], (TOPIC,))).fetchone()
    return -1 if row is None or row[0] is None else int(row[0]) - 1


async def replay_age_s(connection: Connection) -> float | None:
    """Return the seconds since the primary committed what a standby has replayed last; None if it replays nothing."""
    row = await (await connection.execute(SQL["replay_age"])).fetchone()
    return None if row is None or row[0] is None else float(row[0])


async def partition_times(connection: Connection) -> list[tuple[int, Millis, Millis]]:
    """Return each partition's number, its projected time and its time at its last change."""
    return await (await connection.execute(SQL["partition_times"], (TOPIC,))).fetchall()


async def find_page(connection: Connection, query: HistoryQuery) -> HistoryPage:
    """Return one page of a listing."""
    history_filter = query.filter
    values = {
        "tenant": query.tenant,
        "as_of": query.as_of,
        "listed": None if history_filter.listed is None else history_filter.listed.value,
        "brand_uuid": history_filter.brand_uuid or None,
        "recipient": storable_text(history_filter.recipient),
        "sent_at": None if query.start_after is None else query.start_after.sent_at,
        "email_id": None if query.start_after is None else query.start_after.email_id,
        "limit": PAGE_MAX_EMAILS + 1,
    }
    name = "page_of_recipient" if history_filter.recipient else "page"
    rows = await (await connection.execute(SQL[name], values, prepare=False)).fetchall()
    return page_of_rows(
        [HistoryRow(HistoryPosition(row[1], EmailId(row[0])), decode(EMAIL_STATES, row[2])) for row in rows]
    )


async def find_emails_by_any_id(connection: Connection, name: str, tenant: str | None, limit: int) -> list[EmailId]:
    """Return the emails with this email_id, activity.id, address or provider's message id, newest first."""
    bare = storable_text(name.strip().strip("<>"))
    values = {
        "email_id": _uuid(bare),
        "text": storable_text(name),
        "addresses": [storable_text(name), bare],
        "provider_ids": [bare, f"<{bare}>"],
        "tenant": tenant,
        "limit": limit,
    }
    rows = await (await connection.execute(SQL["emails_known_as"], values, prepare=False)).fetchall()
    return [EmailId(row[0]) for row in rows]


async def begin_snapshot(connection: Connection) -> None:
    """Make the transaction read one snapshot. Call it before the transaction's first query."""
    await connection.execute("set transaction isolation level repeatable read, read only")


async def find_email_history(connection: Connection, email_id: EmailId) -> EmailHistory | None:
    """Return one email's state, timeline and jobs; None if the email is unknown."""
    row = await (await connection.execute(SQL["history_of"], (email_id,))).fetchone()
    if row is None:
        return None
    facts = await (await connection.execute(SQL["timeline_of"], (email_id,))).fetchall()
    cursor = await connection.execute(SQL["jobs_of"], (email_id,))
    names = [column.name for column in cursor.description or ()]
    jobs = [dict(zip(names, job, strict=True)) for job in await cursor.fetchall()]
    timeline = [TimelineFact(decode_fact(fact), list(places)) for places, fact in facts]
    return EmailHistory(decode(EMAIL_STATES, row[2]), row[0], row[1], row[3], timeline, jobs)


def _uuid(name: str) -> str | None:
    plain = name.replace("-", "").lower()
    return plain if len(plain) == 32 and all(digit in "0123456789abcdef" for digit in plain) else None

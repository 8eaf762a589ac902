"""Compares the live schema of projections with a rebuilt one and swaps them; `mailfold rebuild` uses it."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from projections import columns, sink
from projections.migrate import MIGRATIONS
from projections.pending_conversions import FASTTRACK_DIALECT, PendingConversion, ended_conversions, new_conversions
from projections.sql import SqlQueries, by_column
from topics.codec import decode
from topics.readings import ever_owed_words, owed_words
from topics.registry import EMAIL_STATES

SQL: Final = SqlQueries(Path(__file__).with_name("swap.sql"))
LIVE_SCHEMA, REBUILD_SCHEMA, OLD_SCHEMA = "projections", "projections_rebuild", "projections_old"
COMPARED_TABLES: Final = (
    *("history", "versions", "requests", "timeline", "superseded_facts", "evidence", "mails", "next_offsets"),
)
STATISTICS_TABLES: Final = ("statistics", "statistics_groups", "statistics_campaigns")
"""Compared only if the live tables' figures are complete: a rebuild is what completes them after an upgrade."""
MAX_EXAMPLES: Final = 3

Connection = psycopg.AsyncConnection[Any]


class TableDifference(msgspec.Struct, frozen=True):
    """The rows of a table that only one schema has: their numbers and the first few keys."""

    table: str
    only_grown: int
    only_rebuilt: int
    examples: tuple[str, ...] = ()


async def create_schema(connection: Connection) -> None:
    """Create an empty schema beside the live one from the same migrations."""
    async with connection.transaction():
        await discard_rebuild(connection)
        for path in sorted(MIGRATIONS.glob("*_projections*.sql")):
            text = path.read_text(encoding="utf-8")
            renamed = text.replace(f"schema {LIVE_SCHEMA};", f"schema {REBUILD_SCHEMA};").replace(
                f"search_path to {LIVE_SCHEMA};", f"search_path to {REBUILD_SCHEMA};"
            )
            # The schema is empty and nobody uses it; a transaction cannot create an index concurrently.
            renamed = renamed.replace("index concurrently", "index").replace(
                "\nset search_path", "\nset local search_path"
            )
            assert renamed != text, f"{path.name} doesn't say which schema it is for"
            await connection.execute(renamed.encode())


async def discard_rebuild(connection: Connection) -> None:
    """Drop the rebuilt schema, finished or not."""
    await connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(REBUILD_SCHEMA)))


async def differences(connection: Connection) -> list[TableDifference]:
    """Return the differences of all tables. Call it in a repeatable-read transaction, so that it sees one snapshot."""
    row = await (await connection.execute(SQL["live_complete_from"])).fetchone()
    compared = (*COMPARED_TABLES, *(STATISTICS_TABLES if row is None else ()))
    tables = [await _compare(connection, table) for table in compared]
    tables.append(await _compare_jobs(connection))
    return [difference for difference in tables if difference.only_grown or difference.only_rebuilt]


async def _compare(connection: Connection, table: str) -> TableDifference:
    names = [row[0] for row in await (await connection.execute(SQL["columns"], (table,))).fetchall()]
    column_list = sql.SQL(", ").join(map(sql.Identifier, names))
    live, rebuilt = (
        sql.SQL("select {} from {}").format(column_list, sql.Identifier(schema, table))
        for schema in (LIVE_SCHEMA, REBUILD_SCHEMA)
    )
    only_live, live_examples = await _rows_missing(connection, live, rebuilt, names)
    only_rebuilt, rebuilt_examples = await _rows_missing(connection, rebuilt, live, names)
    return TableDifference(table, only_live, only_rebuilt, (*live_examples, *rebuilt_examples))


async def _rows_missing(
    connection: Connection, rows: sql.Composed, from_rows: sql.Composed, names: list[str]
) -> tuple[int, list[str]]:
    """Return the number of ``rows`` that are missing from ``from_rows``, and the keys of the first few."""
    key = next(name for name in ("email_id", "partition", "group_id", "address_hash", "mail_id") if name in names)
    query = sql.SQL("with d as ({} except {}) select count(*), (array_agg({}::text))[1:{}] from d")
    row = await (
        await connection.execute(query.format(rows, from_rows, sql.Identifier(key), sql.Literal(MAX_EXAMPLES)))
    ).fetchone()
    assert row is not None
    return row[0], row[1] or []


async def _compare_jobs(connection: Connection) -> TableDifference:
    missing_jobs = wrong_jobs = 0
    examples: list[str] = []
    async for state, names, job_states in _rebuilt_emails(connection):
        ends = {word.value: end for word, end in ended_conversions(state).items()}
        # A job that the emitter is working on is neither open nor done: it ends once its result is on the log.
        open_states = ("held", "pending", "dead")
        jobs = zip(names, job_states, strict=True)
        unfinished = [name for name, job_state in jobs if ends.get(name) == "done" and job_state in open_states]
        # A job that ended may have been deleted since, because it is old.
        missing = set(owed_words(state)) - set(names) - ends.keys()
        extra = set(names) - set(ever_owed_words(state))
        missing_jobs, wrong_jobs = missing_jobs + len(missing), wrong_jobs + len(extra) + len(unfinished)
        if (missing or extra or unfinished) and len(examples) < MAX_EXAMPLES:
            examples.append(state.email_id)
    row = await (await connection.execute(SQL["jobs_without_email"])).fetchone()
    assert row is not None
    return TableDifference("debts", wrong_jobs + row[0], missing_jobs, tuple(examples))


async def _rebuilt_emails(connection: Connection) -> AsyncIterator[tuple[Any, list[str], list[str]]]:
    """Yield each rebuilt Fast Track email's state with the names and states of its jobs."""
    async with connection.cursor(name="rebuilt") as cursor:
        await cursor.execute(SQL["debts_of_rebuilt"], (FASTTRACK_DIALECT,))
        async for state, names, job_states in cursor:
            yield decode(EMAIL_STATES, state), names, job_states


async def swap_schemas(connection: Connection) -> int:
    """Swap the schemas and create the missing jobs in one transaction; return the number of new jobs.

    Existing jobs are left alone, whatever their state: a rebuild sends no conversion again.
    """
    async with connection.transaction():
        await connection.execute(SQL["keep_held"])
        missing, ended = await _missing_conversions(connection)
        rows = list(columns.debts(missing, ended, "pending"))
        if rows:
            await connection.execute(sink.SQL["add_jobs"], by_column(rows))
            await connection.execute(sink.SQL["notify_emitters"])
        views = await (await connection.execute(SQL["analytics_views"])).fetchall()
        for old, new in ((LIVE_SCHEMA, OLD_SCHEMA), (REBUILD_SCHEMA, LIVE_SCHEMA)):
            rename = sql.SQL("alter schema {} rename to {}").format(sql.Identifier(old), sql.Identifier(new))
            await connection.execute(rename)
        await _redefine_views(connection, views)
        return len(rows)


async def _redefine_views(connection: Connection, views: Sequence[tuple[str, str]]) -> None:
    """Point the views to the tables that now have the names in their definitions, instead of the tables that had them.

    Their grants and comments stay. Names in definitions have their schemas, because none is in the search path.
    """
    for name, definition in views:
        view = sql.Identifier("analytics", name)
        # Postgres wrote the definition; it isn't a text from outside.
        query = sql.SQL("create or replace view {} with (security_barrier) as {}")
        await connection.execute(query.format(view, sql.SQL(definition)))


async def _missing_conversions(connection: Connection) -> tuple[list[PendingConversion], dict[Any, str]]:
    missing: list[PendingConversion] = []
    ended: dict[Any, str] = {}
    async for state, names, _ in _rebuilt_emails(connection):
        conversions = new_conversions(state, names)
        missing += conversions
        if conversions:
            ended |= {(state.email_id, word): end for word, end in ended_conversions(state).items()}
    return missing, ended


async def drop_old(connection: Connection) -> None:
    """Drop the schema that was swapped out, after its last readers have finished."""
    await connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(OLD_SCHEMA)))

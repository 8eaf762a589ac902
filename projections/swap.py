"""Two schemas of projections, the one that grew and the one rebuilt: compare them, put one in the other's place."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from projections import columns, sink
from projections.debts import FASTTRACK_DIALECT, PendingConversion, ended_conversions, new_conversions
from projections.migrate import MIGRATIONS
from projections.sql import SqlQueries
from topics.codec import decode
from topics.readings import ever_owed_words, owed_words
from topics.registry import EMAIL_STATES

SQL: Final = SqlQueries(Path(__file__).with_name("swap.sql"))
LIVE_SCHEMA, REBUILD_SCHEMA, OLD_SCHEMA = "projections", "projections_rebuild", "projections_old"
COMPARED_TABLES: Final = ("history", "versions", "timeline", "evidence", "mails", "next_offsets")
MAX_EXAMPLES: Final = 3

Connection = psycopg.AsyncConnection[Any]


class TableDifference(msgspec.Struct, frozen=True):
    """What one side has and the other doesn't: how many rows, and the first few keys."""

    table: str
    only_grown: int
    only_rebuilt: int
    examples: tuple[str, ...] = ()


async def create_schema(connection: Connection) -> None:
    """An empty schema beside the live one, by the same migrations."""
    async with connection.transaction():
        await discard_rebuild(connection)
        for path in sorted(MIGRATIONS.glob("*_projections*.sql")):
            text = path.read_text(encoding="utf-8")
            renamed = text.replace(f"schema {LIVE_SCHEMA};", f"schema {REBUILD_SCHEMA};").replace(
                f"search_path to {LIVE_SCHEMA};", f"search_path to {REBUILD_SCHEMA};"
            )
            assert renamed != text, f"{path.name} doesn't say which schema it is for"
            await connection.execute(renamed.encode())


async def discard_rebuild(connection: Connection) -> None:
    """Forget a rebuild, finished or not."""
    await connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(REBUILD_SCHEMA)))


async def differences(connection: Connection) -> list[TableDifference]:
    """Row by row, both ways. Call it inside one repeatable-read transaction: it looks at one moment."""
    found = [await _compare(connection, table) for table in COMPARED_TABLES]
    found.append(await _compare_debts(connection))
    return [difference for difference in found if difference.only_grown or difference.only_rebuilt]


async def _compare(connection: Connection, table: str) -> TableDifference:
    names = [row[0] for row in await (await connection.execute(SQL["columns"], (table,))).fetchall()]
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    grown, rebuilt = (
        sql.SQL("select {} from {}").format(listed, sql.Identifier(schema, table))
        for schema in (LIVE_SCHEMA, REBUILD_SCHEMA)
    )
    only_grown, some = await _only(connection, grown, rebuilt, names)
    only_rebuilt, more = await _only(connection, rebuilt, grown, names)
    return TableDifference(table, only_grown, only_rebuilt, (*some, *more))


async def _only(
    connection: Connection, these: sql.Composed, those: sql.Composed, names: list[str]
) -> tuple[int, list[str]]:
    """How many rows are in these and not in those, and the keys of some."""
    key = next(name for name in ("email_id", "partition", "address_hash", "mail_id") if name in names)
    query = sql.SQL("with d as ({} except {}) select count(*), (array_agg({}::text))[1:{}] from d")
    row = await (
        await connection.execute(query.format(these, those, sql.Identifier(key), sql.Literal(MAX_EXAMPLES)))
    ).fetchone()
    assert row is not None
    return row[0], row[1] or []


async def _compare_debts(connection: Connection) -> TableDifference:
    unbooked = unowed = 0
    examples: list[str] = []
    async for state, names, states in _rebuilt(connection):
        told = {word.value: end for word, end in ended_conversions(state).items()}
        # In hand is neither: the emitter closes it as soon as it has told the log.
        open_ = ("held", "pending", "dead")
        wrong = [name for name, job in zip(names, states, strict=True) if told.get(name) == "done" and job in open_]
        missing, extra = set(owed_words(state)) - set(names), set(names) - set(ever_owed_words(state))
        unbooked, unowed = unbooked + len(missing), unowed + len(extra) + len(wrong)
        if (missing or extra or wrong) and len(examples) < MAX_EXAMPLES:
            examples.append(state.email_id)
    row = await (await connection.execute(SQL["booked_for_nobody"])).fetchone()
    assert row is not None
    return TableDifference("debts", unowed + row[0], unbooked, tuple(examples))


async def _rebuilt(connection: Connection) -> AsyncIterator[tuple[Any, list[str], list[str]]]:
    async with connection.cursor(name="rebuilt") as cursor:
        await cursor.execute(SQL["debts_of_rebuilt"], (FASTTRACK_DIALECT,))
        async for state, names, states in cursor:
            yield decode(EMAIL_STATES, state), names, states


async def swap_schemas(connection: Connection) -> int:
    """Swap the schemas and book what nobody had booked, in one transaction; how many debts that were.

    Jobs that exist are left alone, whatever their state: a rebuild calls nobody again.
    """
    async with connection.transaction():
        await connection.execute(SQL["keep_held"])
        missing, over = await _missing_debts(connection)
        rows = list(columns.debts(missing, over, "pending"))
        if rows:
            table = {column: [row[column] for row in rows] for column in rows[0]}
            await connection.execute(sink.SQL["owe"], table)
            await connection.execute(sink.SQL["wake"])
        for old, new in ((LIVE_SCHEMA, OLD_SCHEMA), (REBUILD_SCHEMA, LIVE_SCHEMA)):
            rename = sql.SQL("alter schema {} rename to {}").format(sql.Identifier(old), sql.Identifier(new))
            await connection.execute(rename)
        return len(rows)


async def _missing_debts(connection: Connection) -> tuple[list[PendingConversion], dict[Any, str]]:
    missing: list[PendingConversion] = []
    over: dict[Any, str] = {}
    async for state, names, _ in _rebuilt(connection):
        debts = new_conversions(state, names)
        missing += debts
        if debts:
            over |= {(state.email_id, word): end for word, end in ended_conversions(state).items()}
    return missing, over


async def drop_old(connection: Connection) -> None:
    """Drop what was swapped out; waits for those who still read it."""
    await connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(OLD_SCHEMA)))

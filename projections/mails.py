"""Queries of Extra Horizon's Mails: a page of JSON documents by jsonpath and order; its dialect's routes use it."""

from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.listing_query import ListingQuery
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("mails.sql"))

Connection = psycopg.AsyncConnection[Any]
_SLOTS: Final = range(3)


class MailQueryTimeout(Exception):
    """The query exceeds the time limit of a request; a client should ask for less."""


class MailPage(msgspec.Struct, frozen=True):
    """A page of mails as JSON."""

    mails: list[str]
    total: int | None
    """The number of matching mails; None if the query doesn't count."""


async def find(connection: Connection, tenant: str, query: ListingQuery) -> MailPage:
    """Return a page of a tenant's mails. Raises MailQueryTimeout."""
    return await _with_time_limit(connection, _find(connection, tenant, query))


async def find_queued(connection: Connection, tenant: str, query: ListingQuery) -> MailPage:
    """Return a page of the mails with a recipient that no provider has accepted yet. Raises MailQueryTimeout."""
    return await _with_time_limit(connection, _find_queued(connection, tenant, query))


async def _with_time_limit(connection: Connection, search: Awaitable[MailPage]) -> MailPage:
    try:
        async with connection.transaction():
            await connection.execute(SQL["limit_time"])
            return await search
    except psycopg.errors.QueryCanceled as error:
        raise MailQueryTimeout from error


async def _find(connection: Connection, tenant: str, query: ListingQuery) -> MailPage:
    values = _values(tenant, query)
    # Not prepared, so that the planner sees the values and drops a null condition and an absent order.
    page = await connection.execute(SQL["sorted_page" if query.sort else "page"], values, prepare=False)
    mails = [row[0] for row in await page.fetchall()]
    if not query.count:
        return MailPage(mails, None)
    total = await (await connection.execute(SQL["total"], values, prepare=False)).fetchone()
    assert total is not None
    return MailPage(mails, total[0])


async def _find_queued(connection: Connection, tenant: str, query: ListingQuery) -> MailPage:
    rows = await (await connection.execute(SQL["queued"], _values(tenant, query), prepare=False)).fetchall()
    if not rows and query.offset:
        first = msgspec.structs.replace(query, limit=1, offset=0)
        return MailPage([], (await _find_queued(connection, tenant, first)).total)
    total = rows[0][1] if rows else 0
    return MailPage([row[0] for row in rows], total if query.count else None)


def _values(tenant: str, query: ListingQuery) -> dict[str, Any]:
    values = {"tenant": tenant, "where": query.where, "limit": query.limit, "offset": query.offset}
    return values | _sort_values(query.sort)


def _sort_values(sort: Sequence[tuple[Sequence[str], bool]]) -> dict[str, Any]:
    slots = [sort[slot] if slot < len(sort) else (None, False) for slot in _SLOTS]
    paths = {f"path{slot}": None if path is None else list(path) for slot, (path, _) in zip(_SLOTS, slots, strict=True)}
    return paths | {f"down{slot}": down for slot, (_, down) in zip(_SLOTS, slots, strict=True)}

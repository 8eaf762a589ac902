"""Extra Horizon's Mails, asked: a jsonpath, an order and a page in; objects as JSON and their total out."""

from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.asking import ListingQuery
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("mails.sql"))

Connection = psycopg.AsyncConnection[Any]
_SLOTS: Final = range(3)


class MailQueryTimeout(Exception):
    """The question takes more time than anybody gets; ask for less."""


class MailPage(msgspec.Struct, frozen=True):
    """A page, and how many there are in all; None: not counted."""

    mails: list[str]
    total: int | None


async def find(connection: Connection, tenant: str, asked: ListingQuery) -> MailPage:
    """A tenant's mails. Raises TooLong."""
    return await _patiently(connection, _find(connection, tenant, asked))


async def find_queued(connection: Connection, tenant: str, asked: ListingQuery) -> MailPage:
    """Those that are not all in somebody's custody. Raises TooLong."""
    return await _patiently(connection, _find_queued(connection, tenant, asked))


async def _patiently(connection: Connection, asking: Awaitable[MailPage]) -> MailPage:
    try:
        async with connection.transaction():
            await connection.execute(SQL["patience"])
            return await asking
    except psycopg.errors.QueryCanceled as error:
        raise MailQueryTimeout from error


async def _find(connection: Connection, tenant: str, asked: ListingQuery) -> MailPage:
    values = _values(tenant, asked)
    # Never prepared: a null condition and an absent order fold away when it is planned.
    page = await connection.execute(SQL["sorted_page" if asked.sort else "page"], values, prepare=False)
    mails = [row[0] for row in await page.fetchall()]
    if not asked.count:
        return MailPage(mails, None)
    total = await (await connection.execute(SQL["total"], values, prepare=False)).fetchone()
    assert total is not None
    return MailPage(mails, total[0])


async def _find_queued(connection: Connection, tenant: str, asked: ListingQuery) -> MailPage:
    rows = await (await connection.execute(SQL["queued"], _values(tenant, asked), prepare=False)).fetchall()
    if not rows and asked.offset:
        first = msgspec.structs.replace(asked, limit=1, offset=0)
        return MailPage([], (await _find_queued(connection, tenant, first)).total)
    total = rows[0][1] if rows else 0
    return MailPage([row[0] for row in rows], total if asked.count else None)


def _values(tenant: str, asked: ListingQuery) -> dict[str, Any]:
    values = {"tenant": tenant, "where": asked.where, "limit": asked.limit, "offset": asked.offset}
    return values | _order(asked.sort)


def _order(sort: Sequence[tuple[Sequence[str], bool]]) -> dict[str, Any]:
    slots = [sort[slot] if slot < len(sort) else (None, False) for slot in _SLOTS]
    paths = {f"path{slot}": None if path is None else list(path) for slot, (path, _) in zip(_SLOTS, slots, strict=True)}
    return paths | {f"down{slot}": down for slot, (_, down) in zip(_SLOTS, slots, strict=True)}

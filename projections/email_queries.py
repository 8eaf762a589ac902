"""Queries of the history API: pages of emails by any filter, one email as of a moment, the feed of changes.

Each page is read in the order of an index and has no offset, so that it takes the same time however deep it is. A
filter that few emails match may have to read many rows: such a query is ended after `QUERY_TIMEOUT`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from psycopg import sql

from projections.email_facets import facet_text
from projections.email_listing import (
    ChangeFeed,
    ChangePage,
    ChangePosition,
    ChangeRow,
    EmailCount,
    EmailFilter,
    EmailOrder,
    EmailPage,
    EmailPosition,
    EmailQuery,
    EmailRow,
    page_of_emails,
)
from projections.history_queries import Connection, decode_fact
from projections.sql import SqlQueries
from projections.text import storable_text
from projections.timeline import TimelineFact
from topics.codec import decode
from topics.readings import EmailStatus, ListedState, listed_state_of
from topics.record import EmailId, Millis
from topics.registry import EMAIL_STATES

SQL: Final = SqlQueries(Path(__file__).with_name("email_queries.sql"))
QUERY_TIMEOUT: Final = "10s"
"""Time for a client's question: no question of theirs may hold a connection for long."""
ESTIMATE_MAX_EMAILS: Final = 10_000
"""Emails up to which an estimated count is exact."""
PAGE_MAX_BYTES: Final = 4_000_000
"""Bytes of the states on a page: one with more ends early, so that callers' own data of 64 KB each stay bearable."""
FEED_MAX_ROWS: Final = 2_000
"""Versions of a tenant that one question of a brand's feed looks at: those of other brands cost time, too."""

_REQUEST_CONDITIONS: Final[dict[str, LiteralString]] = {
    "accepted_from": "r.accepted_at >= %(accepted_from)s",
    "accepted_to": "r.accepted_at < %(accepted_to)s",
    "dialect": "r.dialect = %(dialect)s",
    "brand_uuid": "r.brand_uuid = %(brand_uuid)s",
    "template": "r.template = %(template)s",
    "message_id": "r.message_id = %(message_id)s",
    "identity": "r.email_id in (select email_id from projections.history "
    "where identity = %(identity)s and identity <> '')",
    "recipient": "r.recipient = %(recipient)s",
    "recipient_domain": "r.recipient_domain = %(recipient_domain)s",
    "activity_id": "r.activity_id = %(activity_id)s",
    "action_group_id": "r.action_group_id = %(action_group_id)s",
    "action_id": "r.action_id = %(action_id)s",
    "trigger_hash": "r.trigger_hash = %(trigger_hash)s",
    "user_id": "r.user_id = %(user_id)s",
}
_STATE_CONDITIONS: Final[dict[str, LiteralString]] = {
    "statuses": "s.status = any(%(statuses)s)",
    "listed": "s.listed = any(%(listed)s)",
    "required_facts": "s.facts & %(required_facts)s = %(required_facts)s",
    "excluded_facts": "s.facts & %(excluded_facts)s = 0",
    "sent_from": "s.sent_at >= %(sent_from)s",
    "sent_to": "s.sent_at < %(sent_to)s",
    "updated_from": "s.valid_from >= %(updated_from)s",
    "updated_to": "s.valid_from < %(updated_to)s",
    "provider": "s.provider = %(provider)s",
    "bounce_class": "s.bounce_class = %(bounce_class)s",
    "bounce_code": "s.bounce_code = %(bounce_code)s",
    "suppressed_reason": "s.suppressed_reason = %(suppressed_reason)s",
}
_TEXT_FIELDS: Final = (
    *("template", "message_id", "recipient", "recipient_domain", "activity_id", "action_group_id", "action_id"),
    *("trigger_hash", "user_id", "provider", "bounce_code", "suppressed_reason"),
)
"""Fields that are stored as :func:`facet_text` makes them."""


class EmailQueryTimeout(Exception):
    """The question takes longer than the time limit; a client should ask for less."""


@contextlib.asynccontextmanager
async def limited_time(connection: Connection, limit: str = "") -> AsyncIterator[None]:
    """Run the block's queries with a time limit each, `QUERY_TIMEOUT` by default. Raises EmailQueryTimeout."""
    try:
        async with connection.transaction():
            await connection.execute(SQL["limit_time"], {"timeout": limit or QUERY_TIMEOUT})
            yield
    except psycopg.errors.QueryCanceled as error:
        raise EmailQueryTimeout from error


async def find_emails(connection: Connection, query: EmailQuery) -> EmailPage:
    """Return one page of a listing. Call it in :func:`limited_time`."""
    statement = _statement(query)
    values = _values(query) | {"limit": query.limit + 1}
    # Never prepared: the planner has to see the values.
    cursor = await connection.execute(statement, values, prepare=False)
    # States are decoded in a thread: hundreds of large ones would hold up the event loop.
    return await asyncio.to_thread(_email_page, await cursor.fetchall(), query.limit)


async def count_emails(connection: Connection, query: EmailQuery, *, exact: bool) -> EmailCount:
    """Return the number of emails that a listing has in all, or at least `ESTIMATE_MAX_EMAILS`."""
    whole = msgspec.structs.replace(query, start_after=None)
    values = _values(whole) | {"limit": None if exact else ESTIMATE_MAX_EMAILS + 1}
    row = await (await connection.execute(_statement(whole, count=True), values, prepare=False)).fetchone()
    number = 0 if row is None else int(row[0])
    if exact or number <= ESTIMATE_MAX_EMAILS:
        return EmailCount(number, is_exact=True)
    return EmailCount(ESTIMATE_MAX_EMAILS, is_exact=False)


async def find_email(connection: Connection, tenant: str, email_id: EmailId, as_of: Millis) -> EmailRow | None:
    """Return a tenant's email as it was at a moment; None if it was not known."""
    values = {"tenant": tenant, "email_id": email_id, "as_of": as_of}
    row = await (await connection.execute(SQL["email"], values)).fetchone()
    return None if row is None else _version_row(email_id, row)


async def find_versions(
    connection: Connection, tenant: str, email_id: EmailId, as_of: Millis, *, after_version: int, limit: int
) -> EmailPage:
    """Return a page of a tenant's versions of an email up to a moment, in their order, after ``after_version``."""
    values = {"tenant": tenant, "email_id": email_id, "as_of": as_of, "version": after_version, "limit": limit + 1}
    records = await (await connection.execute(SQL["versions"], values)).fetchall()
    return await asyncio.to_thread(_version_page, email_id, records, limit)


async def find_timelines(
    connection: Connection, email_ids: Sequence[EmailId], as_of: Millis
) -> dict[EmailId, list[TimelineFact]]:
    """Return the facts of each email that were known at a moment, as they were read then, in no order."""
    values = {"email_ids": list(email_ids), "as_of": as_of, "limit": None}
    records = await (await connection.execute(SQL["timelines"], values)).fetchall()
    return await asyncio.to_thread(_timelines, records)


async def find_timeline(
    connection: Connection, email_id: EmailId, as_of: Millis, limit: int
) -> tuple[list[TimelineFact], bool]:
    """Return the facts of one email like :func:`find_timelines`, the first ``limit``; and whether there are more."""
    values = {"email_ids": [email_id], "as_of": as_of, "limit": limit + 1}
    records = await (await connection.execute(SQL["timelines"], values)).fetchall()
    kept = _rows_of_page([len(fact) for _, _, fact in records[:limit]])
    timelines = await asyncio.to_thread(_timelines, records[:kept])
    return timelines.get(email_id, []), kept < len(records)


async def find_changes(
    connection: Connection, feed: ChangeFeed, start_after: ChangePosition, until: Millis, limit: int
) -> ChangePage:
    """Return a feed's versions that became valid after a position, up to ``until``, in the order of the feed.

    Of a brand's feed at most `FEED_MAX_ROWS` of the tenant's versions are looked at, so that the page may have no
    change and yet a next position.
    ``until`` is a time up to which every partition is projected: later changes become valid after it, so that a
    position that was passed gets no more changes.
    """
    values = {
        "tenant": feed.tenant,
        "brand_uuid": feed.brand_uuid,
        "valid_from": start_after.valid_from,
        "email_id": start_after.email_id,
        "version": start_after.version,
        "until": until,
        "limit": limit + 1,
        "scan_limit": limit + 1 if feed.brand_uuid is None else max(FEED_MAX_ROWS, limit + 1),
    }
    records = await (await connection.execute(SQL["changes"], values, prepare=False)).fetchall()
    return await asyncio.to_thread(_change_page, records, limit)


def _rows_of_page(sizes: Sequence[int]) -> int:
    """Return how many rows of these sizes fit into a page: one at least, whatever its size."""
    total = 0
    for nth, size in enumerate(sizes):
        total += size
        if total > PAGE_MAX_BYTES and nth:
            return nth
    return len(sizes)


def _email_page(records: Sequence[Any], limit: int) -> EmailPage:
    kept = _rows_of_page([len(state) for _, _, state, _, _ in records[:limit]])
    rows = [
        EmailRow(EmailPosition(at, EmailId(email_id)), decode(EMAIL_STATES, state), version, valid_from)
        for email_id, at, state, version, valid_from in records[: kept + 1]
    ]
    return page_of_emails(rows, kept)


def _version_page(email_id: EmailId, records: Sequence[Any], limit: int) -> EmailPage:
    kept = _rows_of_page([len(state) for _, _, state in records[:limit]])
    return page_of_emails([_version_row(email_id, record) for record in records[: kept + 1]], kept)


def _change_page(records: Sequence[Any], limit: int) -> ChangePage:
    """Return the page of up to ``limit`` + 1 versions; the last row looked at may be there without its state."""
    changes = [record for record in records if record[3] is not None]
    kept = _rows_of_page([len(state) for _, _, _, state, _ in changes[:limit]])
    rows = [
        ChangeRow(ChangePosition(valid_from, EmailId(email_id), version), decode(EMAIL_STATES, state))
        for email_id, valid_from, version, state, _ in changes[:kept]
    ]
    if kept < len(changes):
        return ChangePage(rows, rows[-1].position)
    if records and records[-1][4]:
        email_id, valid_from, version, *_ = records[-1]
        return ChangePage(rows, ChangePosition(valid_from, EmailId(email_id), version))
    return ChangePage(rows, None)


def _timelines(records: Sequence[Any]) -> dict[EmailId, list[TimelineFact]]:
    timelines: dict[EmailId, list[TimelineFact]] = {}
    for email_id, places, fact in records:
        timelines.setdefault(EmailId(email_id), []).append(TimelineFact(decode_fact(fact), list(places)))
    return timelines


def _version_row(email_id: EmailId, row: Any) -> EmailRow:
    version, valid_from, state = row
    return EmailRow(EmailPosition(valid_from, email_id), decode(EMAIL_STATES, state), version, valid_from)


def _statement(query: EmailQuery, *, count: bool = False) -> sql.Composed:
    """Return the statement of a page, made of the conditions that the query has.

    Emails in the order of acceptance are read from their requests, and each one's version of the moment is looked up.
    In the other orders the current versions and those that were valid then are read, each in order.
    """
    request_conditions = _conditions(_REQUEST_CONDITIONS, query.filter)
    state_conditions = _conditions(_STATE_CONDITIONS, query.filter)
    order = sql.SQL("") if count else _direction(query)
    if query.order is EmailOrder.ACCEPTED:
        page = sql.SQL(SQL["page_by_acceptance"]).format(
            requests=_and(*request_conditions, *_start(query, "r.accepted_at", "r.email_id")),
            states=_and(*state_conditions),
            order=_order_by(order, "r.accepted_at", "r.email_id"),
        )
    else:
        page = _by_version(query, request_conditions, state_conditions, order)
    return sql.SQL(SQL["count"]).format(page=page) if count else page


def _by_version(
    query: EmailQuery, request_conditions: list[sql.SQL], state_conditions: list[sql.SQL], order: sql.SQL
) -> sql.Composed:
    is_sent = query.order is EmailOrder.SENT
    at: LiteralString = "s.sent_at" if is_sent else "s.valid_from"
    conditions = [*state_conditions, *_start(query, at, "s.email_id")]
    join = sql.SQL("")
    if request_conditions:
        join = sql.SQL(_JOIN)
        conditions += request_conditions
    if is_sent:
        conditions.append(sql.SQL(_SENT))
    parts: dict[str, sql.Composable] = {
        "at": sql.SQL(at),
        "join": join,
        "conditions": _and(*conditions),
        "order": _order_by(order, at, "s.email_id"),
    }
    branches: list[LiteralString] = ["current_of_page", "closed_of_page"]
    if not is_sent:
        branches.append("closed_unlisted_of_page")
    return sql.SQL(SQL["page_by_version"]).format(
        branches=sql.SQL(" union all ").join(sql.SQL(SQL[name]).format(**parts) for name in branches),
        order=_order_by(order, "at", "v.email_id"),
    )


_JOIN: Final = "join projections.requests r on r.email_id = s.email_id and r.tenant = s.tenant"
_SENT: Final = "s.listed is not null and s.sent_at <= %(as_of)s"
"""A version's sent_at is never later than its valid_from, so that the index ends the search."""


def _start(query: EmailQuery, at: LiteralString, email_id: LiteralString) -> list[sql.Composed]:
    """Return the condition of the emails after the query's position."""
    if query.start_after is None:
        return []
    comparison = sql.SQL("<" if query.descending else ">")
    text = "({at}, {email_id}) {comparison} (%(at)s::bigint, %(email_id)s::uuid)"
    return [sql.SQL(text).format(at=sql.SQL(at), email_id=sql.SQL(email_id), comparison=comparison)]


def _direction(query: EmailQuery) -> sql.SQL:
    return sql.SQL("desc" if query.descending else "asc")


def _order_by(direction: sql.SQL, at: LiteralString, email_id: LiteralString) -> sql.Composable:
    """Return the order of a page; a count has no direction and needs no order."""
    if not direction.as_string():
        return direction
    return sql.SQL("order by {at} {direction}, {email_id} {direction}").format(
        at=sql.SQL(at), email_id=sql.SQL(email_id), direction=direction
    )


def _and(*conditions: sql.Composable) -> sql.Composable:
    return sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true")


def _conditions(conditions: dict[str, LiteralString], email_filter: EmailFilter) -> list[sql.SQL]:
    """Return the conditions for what the filter asks."""
    return [sql.SQL(text) for name, text in conditions.items() if _asks(email_filter, name)]


def _asks(email_filter: EmailFilter, name: str) -> bool:
    if name == "listed":
        return _listed_states(email_filter.statuses) is not None
    return getattr(email_filter, name) not in (None, (), 0)


def _values(query: EmailQuery) -> dict[str, Any]:
    email_filter = query.filter
    values: dict[str, Any] = {name: getattr(email_filter, name) for name in email_filter.__struct_fields__}
    values |= {name: facet_text(values[name]) for name in _TEXT_FIELDS if values[name] is not None}
    return values | {
        "identity": storable_text(email_filter.identity or ""),
        "dialect": storable_text(email_filter.dialect or ""),
        "statuses": [status.value for status in email_filter.statuses],
        "listed": _listed_states(email_filter.statuses),
        "required_facts": email_filter.required_facts,
        "excluded_facts": email_filter.excluded_facts,
        "tenant": query.tenant,
        "as_of": query.as_of,
        "at": None if query.start_after is None else query.start_after.at,
        "email_id": None if query.start_after is None else query.start_after.email_id,
    }


def _listed_states(statuses: tuple[EmailStatus, ...]) -> list[str] | None:
    """Return the listed states that all emails with these statuses have, by which an index finds them; None if any."""
    states: set[ListedState] = set()
    for status in statuses:
        state = listed_state_of(status)
        if state is None or status is EmailStatus.DEFERRED:
            return None
        states.add(state)
    return sorted(state.value for state in states) or None

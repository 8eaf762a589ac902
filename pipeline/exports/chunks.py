"""Make the file of an export, chunk by chunk; where a chunk ends depends on the request alone.

So the file is the same whoever makes it and however often that was interrupted, and only one chunk is in memory.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from pipeline.dialects.api_v1 import email_view, timeline_entry_view
from pipeline.exports import rows
from pipeline.exports.request import ExportChunk, ExportKind, ExportRequest
from projections import email_queries
from projections.email_listing import EmailPage, EmailPosition, EmailQuery, EmailRow
from projections.history_queries import Connection
from projections.timeline import TimelineFact, in_causal_order
from topics.record import EmailId

CHUNK_EMAILS: Final = 500
PAGE_TIMEOUT: Final = "10min"
"""Time for the query of a chunk: nobody waits for it, and a filter may match few emails of many."""

ReadHistory = Callable[[Callable[[Connection], Awaitable[Any]]], Awaitable[Any]]
"""A function that runs a query with a connection to the history."""
_PageRows = tuple[EmailPage, dict[EmailId, list[TimelineFact]]]


async def export_chunks(
    read: ReadHistory, request: ExportRequest, start_after: EmailPosition | None = None
) -> AsyncIterator[ExportChunk]:
    """Yield the chunks of a file after a position; the first one begins with the header."""
    position, is_first = start_after, start_after is None
    while True:
        page, timelines = await _read_page(read, request, position)
        # Not on the event loop: other requests must not wait.
        text, number = await asyncio.to_thread(_render, request, page.rows, timelines)
        if is_first:
            text = rows.header(request.kind, request.format) + text
        data = await asyncio.to_thread(rows.gzip_member, text)
        position, is_first = page.next_position, False
        yield ExportChunk(data, len(page.rows), number, position)
        if position is None:
            return


async def _read_page(read: ReadHistory, request: ExportRequest, start_after: EmailPosition | None) -> _PageRows:
    query = EmailQuery(
        tenant=request.tenant,
        as_of=request.as_of,
        filter=request.filter,
        descending=False,
        limit=CHUNK_EMAILS,
        start_after=start_after,
    )

    async def find(connection: Connection) -> _PageRows:
        async with email_queries.limited_time(connection, PAGE_TIMEOUT):
            page = await email_queries.find_emails(connection, query)
            if request.kind is ExportKind.EMAILS:
                return page, {}
            ids = [row.position.email_id for row in page.rows]
            return page, await email_queries.find_timelines(connection, ids, request.as_of)

    result: _PageRows = await read(find)
    return result


def _render(
    request: ExportRequest, page: Sequence[EmailRow], timelines: dict[EmailId, list[TimelineFact]]
) -> tuple[str, int]:
    """Return the lines of a page, and their number."""
    masked = request.masks_addresses
    if request.kind is ExportKind.EMAILS:
        views = [email_view(row, masks_addresses=masked) for row in page]
        return rows.email_rows(views, request.format), len(views)
    entries = [
        (
            row.position.email_id,
            [
                timeline_entry_view(entry, masks_addresses=masked)
                for entry in in_causal_order(timelines.get(row.position.email_id, []))
            ],
        )
        for row in page
    ]
    return rows.timeline_rows(entries, request.format), sum(len(each) for _, each in entries)

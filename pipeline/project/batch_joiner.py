"""Joins small batches of several partitions into one transaction; `main` makes one for all partitions of a process.

A transaction costs this process and Postgres some milliseconds, however little it writes. So what comes while one is
being written waits for its end, and is written together. The busier the projector, the more batches share one; a batch
that comes alone waits for nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import psycopg

from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.tasks import cancel_tasks
from projections.sink import ChangeBatch
from topics.record import EmailId

JOINED_MAX_CHANGES: Final = 500
"""Changes in a transaction of several batches, at most. A batch that is as large is written alone and beside others, so
that this process and Postgres work at the same time while a backlog is read."""

_BLOCKED_ERRORS: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)
"""Errors of a transaction that waited for another one; the driver counts them among those of a server that is away."""
WriteBatches = Callable[[Sequence[ChangeBatch]], Awaitable[None]]
"""A function that writes batches of different partitions in one transaction: all or none."""


class _WaitingBatch(NamedTuple):
    batch: ChangeBatch
    email_ids: set[EmailId]
    written: "asyncio.Future[None]"


class BatchJoiner:
    """Writes batches in as few transactions as their callers need not wait for."""

    def __init__(self, write: WriteBatches) -> None:
        self._write_batches = write
        self._waiting: list[_WaitingBatch] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, batch: ChangeBatch) -> None:
        """Write a batch and return once it is committed. Raise what writing it alone raises.

        A caller that is cancelled while its batch is being written does not know whether it was committed.
        """
        if len(batch.changes) >= JOINED_MAX_CHANGES:
            await self._write_batches([batch])
            return
        waiting = _WaitingBatch(batch, batch.email_ids(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting(), name="write joined batches")
        await waiting.written

    async def close(self) -> None:
        """End the transaction in progress; what it writes is rolled back unless it was committed already."""
        if self._writing is not None:
            await cancel_tasks([self._writing])

    async def _write_waiting(self) -> None:
        try:
            while group := self._next_group():
                await self._write_group(group)
        finally:
            self._writing = None

    def _next_group(self) -> list[_WaitingBatch]:
        """Remove and return the batches for the next transaction: of different partitions and different emails."""
        group: list[_WaitingBatch] = []
        later: list[_WaitingBatch] = []
        partitions: set[int] = set()
        email_ids: set[EmailId] = set()
        changes = 0
        for waiting in self._waiting:
            if waiting.written.done():  # its caller was cancelled
                continue
            has_room = changes + len(waiting.batch.changes) <= JOINED_MAX_CHANGES
            is_separate = waiting.batch.partition not in partitions and email_ids.isdisjoint(waiting.email_ids)
            if group and not (has_room and is_separate):
                later.append(waiting)
                continue
            group.append(waiting)
            changes += len(waiting.batch.changes)
            partitions.add(waiting.batch.partition)
            email_ids |= waiting.email_ids
        self._waiting = later
        return group

    async def _write_group(self, group: Sequence[_WaitingBatch]) -> None:
        """Write a group in one transaction; where what is in it makes that fail, each batch in one of its own."""
        try:
            await self._write_batches([waiting.batch for waiting in group])
        except Exception as error:
            if len(group) > 1 and not _is_outage(error):
                await asyncio.gather(*(self._write_group([waiting]) for waiting in group))
                return
            for waiting in group:
                if not waiting.written.done():
                    waiting.written.set_exception(error)
        else:
            for waiting in group:
                if not waiting.written.done():
                    waiting.written.set_result(None)


def _is_outage(error: Exception) -> bool:
    """Return whether Postgres does not answer, whatever is written."""
    return isinstance(error, DATABASE_UNAVAILABLE_ERRORS) and not isinstance(error, _BLOCKED_ERRORS)

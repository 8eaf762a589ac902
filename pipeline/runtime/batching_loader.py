"""Batch concurrent lookups into one; the dispatcher uses it for lookups in Postgres and reads of Kafka."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

from pipeline.errors import LookupCancelled
from pipeline.runtime.tasks import is_cancelled

K = TypeVar("K")
V = TypeVar("V")


class BatchLoader(Generic[K, V]):
    """A loader that passes all pending keys to ``fetch`` in one call; keys that come meanwhile make the next call."""

    def __init__(self, fetch: Callable[[set[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch_many = fetch
        self._pending: dict[K, asyncio.Future[V]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """Return the key's value. Raise KeyError where ``fetch`` returned none, and what ``fetch`` raised."""
        if key not in self._pending:
            self._pending[key] = asyncio.get_running_loop().create_future()
        future = self._pending[key]
        if self._task is None:
            # In a context of its own: the batch is not one caller's, and its log lines must not name one.
            self._task = asyncio.create_task(self._fetch_pending(), context=contextvars.Context())
        # Shielded, because other callers may wait for the same future when this one is cancelled.
        return await asyncio.shield(future)

    async def _fetch_pending(self) -> None:
        try:
            while self._pending:
                # One turn of the loop, so that tasks that are ready now add their keys to this batch.
                await asyncio.sleep(0)
                batch, self._pending = self._pending, {}
                await self._fetch_batch(batch)
        finally:
            self._task = None

    async def _fetch_batch(self, batch: Mapping[K, "asyncio.Future[V]"]) -> None:
        try:
            values = await self._fetch_many(set(batch))
        except Exception as error:
            _fail(batch.values(), error)
            return
        except asyncio.CancelledError:
            # Not for ever unanswered: a library's cancellation that was not meant for us is an error like any other.
            _fail(batch.values(), LookupCancelled())
            if is_cancelled():
                raise
            return
        for key, future in batch.items():
            if key in values:
                if not future.done():
                    future.set_result(values[key])
            else:
                _fail([future], KeyError(key))


def _fail(futures: Iterable["asyncio.Future[V]"], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
            # Marked as retrieved: its caller may have been cancelled, and asyncio would log the error.
            future.exception()

"""Batches of webhooks in progress: small records are normalized inline, the others in processes.

Batches are finished in order. The normalizing agent in `topology` uses it.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer, traceparent_of
from pipeline.runtime.tasks import cancel_tasks
from pipeline.webhooks.normalize import EncodedRecord, is_heavy
from pipeline.worker.agents import Normalizer
from pipeline.worker.fold_batch import RecordBatch
from topics.codec import NewerRecord
from topics.registry import PROVIDER_WEBHOOKS

SLICE_BYTES: Final = 65_536
"""Bytes that are normalized inline before other tasks may run: about 4 ms."""
MAX_HEAVY_BYTES: Final = 32 * 1024 * 1024
"""Bytes of records that wait for a process; at this limit no batch is accepted, and fetching stops."""
MAX_HEAVY_ITEMS: Final = 256
"""Records that wait for a process, with the same effect."""

_WEBHOOK_ATTRIBUTES: Final = {
    "messaging.system": "kafka",
    "messaging.destination.name": PROVIDER_WEBHOOKS.name,
}

AppendRecords = Callable[[Sequence[EncodedRecord]], Awaitable[None]]


class NormalizingBacklog:
    """Starts batches concurrently and finishes them in the order in which they came.

    A slow mail delays neither the other records of its batch nor later batches: their events are appended meanwhile.
    Only their offsets wait, so that a crash loses nothing; events that are appended twice count once.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        append: AppendRecords,
        fail: Callable[[BaseException], Awaitable[None]],
        skipped: SkippedRecords,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._skipped = skipped
        self._normalizer = normalizer
        self._append = append
        self._fail = fail
        self._tracer = tracer
        self._in_progress: asyncio.Queue[tuple[list[asyncio.Task[None]], Callable[[], Any]]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heavy_items = self._heavy_bytes = 0
        self._has_room = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start the task that finishes batches."""
        self._spawn(self._finish_in_order())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the batches in progress: their offsets are not committed, and they are read again."""
        await cancel_tasks(list(self._tasks))

    async def add(self, batch: RecordBatch, finish: Callable[[], Any]) -> None:
        """Start a batch once there is room for it; call ``finish`` when it and all batches before it are done."""
        light, heavy = divide(batch)
        await self._wait_for_room()
        contexts = self._contexts(batch)
        tasks = [self._start_heavy(webhook, contexts.get(webhook.place.offset, "")) for webhook in heavy]
        records: list[EncodedRecord] = []
        traced: dict[str, list[EncodedRecord]] = {}
        size, started_at_ns = 0, time.time_ns()
        for webhook in light:
            context = contexts.get(webhook.place.offset, "")
            to_append = traced.setdefault(context, []) if context else records
            try:
                to_append += self._normalizer.normalize_inline(webhook)
            except NewerRecord as error:
                await self._skipped.require(error)
            size += len(webhook.value or b"")
            if size >= SLICE_BYTES:
                size = 0
                await asyncio.sleep(0)
        await self._append(records)
        if traced:
            with self._tracer.span("normalize", "consumer", traced, _WEBHOOK_ATTRIBUTES, started_at_ns):
                await self._append(list(itertools.chain.from_iterable(traced.values())))
        self._in_progress.put_nowait((tasks, finish))

    def _contexts(self, batch: RecordBatch) -> dict[int, str]:
        """Return the trace contexts of traced webhooks, by offset."""
        if not self._tracer.is_on:
            return {}
        return {record.offset: context for record in batch.records if (context := traceparent_of(record))}

    def _start_heavy(self, webhook: ConsumedRecord, context: str) -> "asyncio.Task[None]":
        self._heavy_items += 1
        self._heavy_bytes += len(webhook.value or b"")
        return self._spawn(self._normalize_heavy(webhook, context))

    async def _normalize_heavy(self, webhook: ConsumedRecord, context: str) -> None:
        try:
            with self._tracer.span("normalize", "consumer", [context], _WEBHOOK_ATTRIBUTES):
                await self._append(await self._normalizer.normalize_in_process(webhook))
        except NewerRecord as error:
            await self._skipped.require(error)
        finally:
            self._heavy_items -= 1
            self._heavy_bytes -= len(webhook.value or b"")
            self._has_room.set()

    async def _wait_for_room(self) -> None:
        while self._heavy_items >= MAX_HEAVY_ITEMS or self._heavy_bytes >= MAX_HEAVY_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    async def _finish_in_order(self) -> None:
        try:
            while True:
                tasks, finish = await self._in_progress.get()
                await asyncio.gather(*tasks)
                crash_point("normalize.before-ack")
                finish()
        except Exception as error:
            await self._fail(error)

    def _spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def divide(batch: RecordBatch) -> tuple[list[ConsumedRecord], list[ConsumedRecord]]:
    """Return the records to normalize inline and those to normalize in a process."""
    light: list[ConsumedRecord] = []
    heavy: list[ConsumedRecord] = []
    for webhook in batch.consumed_records():
        (heavy if is_heavy(webhook.value) else light).append(webhook)
    return light, heavy

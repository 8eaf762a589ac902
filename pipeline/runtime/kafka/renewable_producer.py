"""Replace a producer that can't append any more, as after an outage of all brokers; `kafka.KafkaLog` appends with it.

aiokafka numbers an idempotent producer's batches for each partition before it sends them. A batch that fails after
that, because its partition had no leader for too long or the broker refused it, leaves a gap in the numbers, and the
broker refuses every later batch of the partition: OutOfOrderSequenceNumber, for ever (aiokafka issue 1017). Only a new
producer, whose numbers begin again, helps.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.clients import close_producer, start_client
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings

logger = get_logger(__name__)

STALLED_AFTER_S: Final = 10.0
"""Seconds after which a batch that is not confirmed means that the producer makes no progress. Two append time-outs:
the callers have their answers by then, and a leader that fails is replaced within about as long."""
CHECK_INTERVAL_S: Final = 1.0
MIN_RENEWAL_INTERVAL_S: Final = 2.0
"""Seconds between two replacements. Where the brokers refuse every batch, each producer fails at once."""
RENEWAL_TIMEOUT_S: Final = 8.0
"""Seconds until a new producer must be connected and have its id; the next check tries again with another one."""
REPLACED_TIMEOUT_S: Final = 5.0
"""Seconds for a replaced producer to send what it has; then as long again for its requests under way to end."""


class RenewableProducer:
    """The producer in use; :meth:`watch` replaces it by a new one when it can't append any more.

    A replaced producer's unconfirmed records may or may not reach the log, like any unconfirmed record.
    """

    def __init__(self, settings: Settings, create: Callable[[], AIOKafkaProducer]) -> None:
        self._settings = settings
        self._create = create
        self._current: AIOKafkaProducer | None = None
        self._opened_at = -math.inf
        self._failure = ""
        self._reported_failure = ""
        self._wake = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> AIOKafkaProducer:
        """Return the producer in use."""
        assert self._current is not None, "not open yet"
        return self._current

    async def open(self) -> None:
        """Start the first producer. Raise LogUnavailable."""
        self._current = await self._start()

    async def close(self, flush_timeout_s: float) -> None:
        """Flush and close the producer in use, and give up those that were replaced."""
        for task in self._closing:
            task.cancel()
        await close_producer(self.current, flush_timeout_s)

    def track(self, producer: AIOKafkaProducer, sent: "asyncio.Future[Any]") -> None:
        """Note the failure of what this producer sent; the caller need not retrieve it."""
        sent.add_done_callback(functools.partial(self._note_result, producer))

    def find_problem(self, patience_s: float = STALLED_AFTER_S) -> str:
        """Return why the producer can't append, as far as it has shown, or "" if there is no sign of it.

        ``patience_s``: the age in seconds at which an unconfirmed batch is a sign.
        """
        if self._failure:
            return f"a batch failed ({self._failure})"
        if self.current._sender.sender_task.done():
            return "the producer stopped"
        age_s = oldest_batch_age_s(self.current)
        return f"a batch is unconfirmed for {age_s:.0f} s" if age_s > patience_s else ""

    async def watch(self) -> None:
        """Replace the producer whenever it can't append any more, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                # Python 3.11's `wait_for` swallows a cancellation at the moment of a failure; closing would hang.
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.renew_if_broken()
            except Exception:
                # Without this task no later failure would be healed; what it did not expect, it tries again.
                logger.exception("Kafka producer can't be checked")
            if self._failure:  # it was replaced a moment ago, or the brokers are away
                await asyncio.sleep(CHECK_INTERVAL_S)

    async def renew_if_broken(self) -> bool:
        """Replace the producer if it can't append any more; return whether it was replaced.

        As long as no new one can start, as during an outage, the old one stays: its client may recover by itself.
        """
        reason = self.find_problem()
        if not reason:
            self._reported_failure = ""
            return False
        if time.monotonic() - self._opened_at < MIN_RENEWAL_INTERVAL_S:
            return False
        try:
            started = await self._start()
        except LogUnavailable as error:
            if not self._reported_failure:
                logger.error("Kafka producer can't be replaced, retrying", reason=reason, error=str(error))
            self._reported_failure = reason
            return False
        broken, self._current = self.current, started
        logger.warning("Kafka producer replaced", reason=reason)
        closing = asyncio.create_task(close_producer(broken, REPLACED_TIMEOUT_S, REPLACED_TIMEOUT_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return True

    async def _start(self) -> AIOKafkaProducer:
        producer = self._create()
        await start_client(producer, self._settings, RENEWAL_TIMEOUT_S)
        self._opened_at, self._failure, self._reported_failure = time.monotonic(), "", ""
        return producer

    def _note_result(self, producer: AIOKafkaProducer, sent: "asyncio.Future[Any]") -> None:
        error = None if sent.cancelled() else sent.exception()
        if error is not None and producer is self._current:
            self._failure = type(error).__name__
            self._wake.set()


def oldest_batch_age_s(producer: AIOKafkaProducer) -> float:
    """Return the age in seconds of the oldest batch that is not confirmed; 0 if all are."""
    accumulator = producer._message_accumulator
    queued = (batch._ctime for batches in accumulator._batches.values() for batch in batches)
    in_flight = (batch._ctime for batch in accumulator._pending_batches)
    now = time.monotonic()
    return now - min(min(queued, default=now), min(in_flight, default=now))


@contextlib.asynccontextmanager
async def open_renewable_producer(
    settings: Settings, create: Callable[[], AIOKafkaProducer], flush_timeout_s: float
) -> AsyncIterator[RenewableProducer]:
    """Open a producer and watch it; flush and close it at the end. Raise LogUnavailable."""
    producers = RenewableProducer(settings, create)
    await producers.open()
    watching = asyncio.create_task(producers.watch(), name="watch Kafka producer")
    try:
        yield producers
    finally:
        await cancel_tasks([watching])
        await producers.close(flush_timeout_s)

"""Let readers pass over a record of a newer version that an operator has skipped with `mailfold topics skip`.

The decision is a dead letter with the reason `skipped`, which holds the record. A reader looks for it only when it
meets a record of a newer version, and stops there if there is none. So the decision needs no table, to which the worker
has no access, and no topic of its own; it is shown as a dead letter and lives as long as the log.

It counts for the record that the letter holds: on another cluster, or on a topic that was created again, another record
is in its place.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.topic_reader import open_topic_reader
from pipeline.runtime.observing.logs import get_logger
from pipeline.settings import Settings
from topics.codec import NewerRecord
from topics.dead_letters import value_digest
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS

SKIPPED: Final = "skipped"
"""The reason of the dead letter of a record that readers pass over."""
SEARCH_TIMEOUT_S: Final = 30.0
SEARCH_INTERVAL_S: Final = 10.0
"""Seconds between two searches, at least: thousands of emails may wait for contents of a newer version."""

logger = get_logger(__name__)
T = TypeVar("T")


class SkippedRecords:
    """The skipped records, as far as a reader has asked for them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._digests: dict[LogPosition, set[bytes]] = {}
        """Place -> digests of the records that were skipped there; more than one after a topic was created again."""
        self._next_offset = 0
        """Next offset of the dead letters to look at."""
        self._searched_at = -SEARCH_INTERVAL_S
        self._lock = asyncio.Lock()

    async def require(self, error: NewerRecord) -> LogPosition:
        """Return the place of the record that raised ``error`` if it is skipped; raise ``error`` otherwise."""
        place = error.place
        if place is None or not await self.include(place, error.digest):
            raise error
        logger.warning("record of a newer version passed over, as an operator decided", position=str(place))
        return place

    async def include(self, place: LogPosition, digest: bytes) -> bool:
        """Return whether the record of this digest at ``place`` is skipped; False where dead letters can't be read."""
        async with self._lock:
            if digest not in self._digests.get(place, ()) and time.monotonic() - self._searched_at >= SEARCH_INTERVAL_S:
                try:
                    async with asyncio.timeout(SEARCH_TIMEOUT_S):
                        await self._read_on()
                except (KafkaError, LogUnavailable, TimeoutError) as error:
                    logger.error("dead letters can't be searched for skipped records", error=str(error))
                self._searched_at = time.monotonic()
        return digest in self._digests.get(place, ())

    async def pass_over(self, records: Sequence[Any], process: Callable[[Sequence[Any]], Awaitable[T]]) -> T:
        """Return what ``process`` returns for a consumer's ``records``, without those that are skipped.

        ``process`` must have changed nothing when it raises NewerRecord. Raise NewerRecord for any other.
        """
        while True:
            try:
                return await process(records)
            except NewerRecord as error:
                place = await self.require(error)
                topic = self._settings.topic(place.topic)
                skipped = (topic, place.partition, place.offset)
                records = [each for each in records if (each.topic, each.partition, each.offset) != skipped]

    async def _read_on(self) -> None:
        async with open_topic_reader(self._settings, DEAD_LETTERS) as letters:
            async for offset, letter in letters.read(max(self._next_offset, letters.beginning), letters.end):
                if letter.reason == SKIPPED:
                    self._digests.setdefault(letter.source, set()).add(value_digest(letter.value))
                self._next_offset = offset + 1  # a search that takes too long goes on here the next time
            self._next_offset = letters.end

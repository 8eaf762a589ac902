"""Faust's Kafka consumer with commits that can neither pass an unfinished record nor stick.

Faust keeps sets of acknowledged offsets and gaps; an off-by-one there commits past a record in
flight, and a commit that fails once is forgotten (faust-streaming issues 606 and 596). Our agents
acknowledge in order, so one number per partition is enough: the *position*, the offset after the
longest finished run. It moves only over records that follow each other without a hole, so a record
that vanishes between fetch and agent (Faust clears queues when partitions move) stops the worker
instead of being skipped.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from faust.transport import drivers
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types.tuples import ConsumerMessage

from pipeline.errors import Vanished

SCHEME: Final = "mailfold-kafka"


class Fetched(ConsumerMessage):
    """A fetched record that knows which offset it follows, and since which seek it counts."""

    __slots__ = ("epoch", "follows")

    follows: int
    epoch: int


class Consumer(FaustConsumer):
    """Acknowledgements by position."""

    logger = logging.getLogger("faust.transport")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epoch = 0
        self._fetch_epoch = 0
        self._held = False
        # Per topic partition: the first offset not yet finished, and the first not yet fetched.
        self._position: dict[Any, int] = {}
        self._fetched: dict[Any, int] = {}
        self._looked_again: dict[Any, int] = {}

    async def perform_seek(self) -> None:
        """After a rebalance: back to what is committed.

        aiokafka's `seek_to_committed` seeks nowhere where nothing is committed yet, so what was
        fetched before the rebalance would be skipped.
        """
        self._held = True
        await super().perform_seek()
        ours = [tp for tp in self.assignment() if self.app.topics.acks_enabled_for(tp.topic)]
        new = [tp for tp in ours if self._committed_offset[tp] is None]
        earliest = await self.earliest_offsets(*new) if new else {}
        targets = {tp: self._committed_offset[tp] or earliest.get(tp) or 0 for tp in ours}
        await self.seek_wait(targets)
        self._position = targets

    def resume_flow(self) -> None:
        """Faust empties the agents' queues just before this: what they held since the seek would be gone."""
        super().resume_flow()
        self._held = False

    async def seek_wait(self, partitions: Mapping[Any, int]) -> None:
        """Move; what was fetched before is void."""
        await super().seek_wait(partitions)
        self._epoch += 1
        self._fetched.update(partitions)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Mapping[Any, list[Any]]:  # noqa: ASYNC109
        """Runs of records that follow on what was fetched before; for any other run, look again."""
        fetched = await super()._getmany(active_partitions, timeout)
        self._fetch_epoch = self._epoch
        runs = {tp: records for tp, records in fetched.items() if self._follows_on(tp, records)}
        for tp in fetched.keys() - runs.keys():
            if tp in self._fetched:
                await super().seek_wait({tp: self._fetched[tp]})
        return runs

    def _follows_on(self, tp: Any, records: list[Any]) -> bool:
        """A hole is believed when it is seen twice: a rebalance can lose a fetch, and so can a seek meanwhile."""
        if not records or tp not in self._fetched or (self._held and tp in self._position):
            return False
        first, expected = records[0].offset, self._fetched[tp]
        if first == expected or (first > expected and self._looked_again.get(tp) == expected):
            return True
        self._looked_again[tp] = expected
        return False

    def _to_message(self, tp: Any, record: Any) -> Fetched:
        plain = super()._to_message(tp, record)
        message = Fetched(
            *(plain.topic, plain.partition, plain.offset, plain.timestamp, plain.timestamp_type, plain.headers),
            *(plain.key, plain.value, plain.checksum, plain.serialized_key_size, plain.serialized_value_size, tp),
            generation_id=plain.generation_id,
        )
        message.epoch = self._fetch_epoch
        message.follows = self._fetched.get(tp, record.offset)
        if self._fetch_epoch == self._epoch:
            self._fetched[tp] = record.offset + 1
        return message

    def is_current(self, message: Any) -> bool:
        """Whether work on this record still counts: nothing was sought and no partition moved since."""
        return bool(message.epoch == self._epoch and message.generation_id == self.app.consumer_generation_id)

    def ack(self, message: Any) -> bool:
        """Finish a record. One of an older epoch was fetched again and counts then.

        Raises Vanished where a record before it never arrived.
        """
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)
        if not self.is_current(message) or message.tp not in self._position:
            return False
        if message.follows != self._position[message.tp]:
            raise Vanished(f"{message.tp}: {message.offset} arrived while {self._position[message.tp]} is missing")
        self._position[message.tp] = message.offset + 1
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        return (tp for tp in list(self._position) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: Any) -> int | None:
        return self._position.get(tp)

    def _should_commit(self, tp: Any, offset: int) -> bool:
        return bool(offset > (self._committed_offset[tp] or 0))

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:  # else a failed commit would count as made, and stick
            self._committed_offset.update(before)
        return bool(committed)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Holes in the log are seen when it is fetched; no bookkeeping per offset."""

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Finish what is in hand (super does, and commits), then forget the partitions."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._position.pop(tp, None)
            self._fetched.pop(tp, None)


class Transport(FaustTransport):
    """Faust's transport with our consumer."""

    Consumer = Consumer


def register() -> None:
    """Let Faust find this transport by its scheme."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"

"""The agents' work on one batch: what `topology` calls between Faust's streams and the pure fold and normalizers."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from pipeline.errors import TooManyDeadLetters
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.ports import Clock
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.normalize import EncodedRecord, normalized_records
from pipeline.worker.fold_batch import RecordBatch, StateReader, fold_batch
from pipeline.worker.streaming.commit_batch import FoldResult
from topics.codec import encode
from topics.registry import DEAD_LETTERS

NormalizeInProcess = Callable[[ConsumedRecord], Awaitable[list[EncodedRecord]]]
"""A function that normalizes a record in another process (:class:`pipeline.worker.normalizing.pool.NormalizerPool`)."""
WRITER_FAULT_REASONS: Final = frozenset({"undecodable", "misplaced"})
"""Dead-letter reasons that only the writer of a fact can cause. Our own processes write the fact topics, so many of
these mean a bug of ours or a foreign program writing to our topics. "too-large" is not among them: the text of such a
fact may come from outside, and nobody outside may be able to stop the fold."""


class DeadLetterLimit:
    """Stops the worker when most records become dead letters by a fault of their writer.

    Halting is better than turning the log into dead letters.
    """

    WINDOW_RECORDS: Final = 1000
    MIN_RECORDS: Final = 200
    MAX_DEAD_SHARE: Final = 0.5

    def __init__(self) -> None:
        self._window: deque[bool] = deque(maxlen=self.WINDOW_RECORDS)

    def count(self, good: int, dead: int) -> None:
        """Raise TooManyDeadLetters if more than half of the last records, at least 200, became dead letters."""
        self._window.extend([False] * good + [True] * dead)
        seen, bad = len(self._window), sum(self._window)
        if seen >= self.MIN_RECORDS and bad > self.MAX_DEAD_SHARE * seen:
            raise TooManyDeadLetters(
                f"{bad} of the last {seen} records can't be understood; nothing of this batch is written"
            )


class FactFolder:
    """The fold agent's function: reads states, folds a batch and returns what to write."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limit = DeadLetterLimit()

    def __call__(self, batch: RecordBatch, read_states: StateReader) -> FoldResult:
        """Fold a batch of one partition. Raises PartitionNotAssigned, TooManyDeadLetters."""
        folded = fold_batch(batch, read_states, self._clock())
        faults = sum(letter.reason in WRITER_FAULT_REASONS for letter in folded.dead)
        self._limit.count(len(batch.records) - faults, faults)
        others = [(DEAD_LETTERS, encode(DEAD_LETTERS, letter)) for letter in folded.dead]
        return FoldResult(folded.states, folded.changes, others)


class Normalizer:
    """Turns raw webhooks into the records to append, in this process or in another one.

    Its dead letters have no limit: a provider that was configured with the wrong kind must not stop the fold for all.
    Nothing is lost, because the raw webhooks are kept for a month and can be normalized again after a repair.
    """

    def __init__(self, clock: Clock, token_readers: TokenReaders, normalize_in_process: NormalizeInProcess) -> None:
        self._clock = clock
        self._token_readers = token_readers
        self.normalize_in_process = normalize_in_process
        """Normalizes a record that may take long."""

    def normalize_inline(self, webhook: ConsumedRecord) -> list[EncodedRecord]:
        """Return the events and dead letters of a small webhook."""
        return normalized_records(webhook, self._token_readers, self._clock())

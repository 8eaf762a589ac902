"""What each agent does with a batch: records in, what to write out; the one place between Faust and the pure core."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from pipeline.errors import TooManyDeadLetters
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.ports import Clock
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.normalize import EncodedRecord, normalized_records
from pipeline.worker.fold_batch import RecordBatch, StateReader, fold_batch
from pipeline.worker.streaming.commit_batch import FoldResult
from topics.codec import encode
from topics.registry import DEAD_LETTERS

NormalizeInProcess = Callable[[ConsumedRecord], Awaitable[list[EncodedRecord]]]
"""Returns a record's outputs, made in a process (:class:`pipeline.worker.normalizing.pool.NormalizerPool`)."""
WRITER_FAULT_REASONS: Final = frozenset({"undecodable", "misplaced"})
"""Reasons for which only a fact's writer can be to blame. Topics of facts are written by our own processes, so many of
these mean a fault of ours, or a foreign program that writes to our topics. A fact that is too large for its email's
change is none of them: its words may be a stranger's, and no stranger may be able to stop the fold."""


class DeadLetterLimit:
    """Stops the worker when most records are dead by a fault of ours.

    A loud halt is better than a log turned into dead letters.
    """

    WINDOW_RECORDS: Final = 1000
    MIN_RECORDS: Final = 200
    MAX_DEAD_SHARE: Final = 0.5

    def __init__(self) -> None:
        self._window: deque[bool] = deque(maxlen=self.WINDOW_RECORDS)

    def count(self, good: int, dead: int) -> None:
        """Raise TooManyDead where more than half of the last records (200 at least) are dead."""
        self._window.extend([False] * good + [True] * dead)
        seen, bad = len(self._window), sum(self._window)
        if seen >= self.MIN_RECORDS and bad > self.MAX_DEAD_SHARE * seen:
            raise TooManyDeadLetters(
                f"{bad} of the last {seen} records can't be understood; nothing of this batch is written"
            )


class FactFolder:
    """Reads states, folds, says what to write."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limit = DeadLetterLimit()

    def __call__(self, run: RecordBatch, read: StateReader) -> FoldResult:
        """Fold a run of one partition. Raises NotOurs, TooManyDead."""
        folded = fold_batch(run, read, self._clock())
        faults = sum(letter.reason in WRITER_FAULT_REASONS for letter in folded.dead)
        self._limit.count(len(run.records) - faults, faults)
        others = [(DEAD_LETTERS, encode(DEAD_LETTERS, letter)) for letter in folded.dead]
        return FoldResult(folded.states, folded.changes, others)


class Normalizer:
    """Turns raw webhooks into what is to be appended: here and now, or in a process.

    Without a limit: a provider entered as another's kind must not stop everybody's fold, and nothing is lost by letting
    it pass. The raw webhooks stay for a month, and are read anew when what was wrong is put right.
    """

    def __init__(self, clock: Clock, proofs: TokenReaders, heavy: NormalizeInProcess) -> None:
        self._clock = clock
        self._proofs = proofs
        self.normalize_in_process = heavy
        """Normalizes a record that may take its time."""

    def normalize_inline(self, found: ConsumedRecord) -> list[EncodedRecord]:
        """Return the events and leftovers of a webhook that is small."""
        return normalized_records(found, self._proofs, self._clock())

"""Decide when a job is tried again: the delays between attempts, with jitter, and the circuit breaker of a lane.

Pure; called by the engine, the store and the job handlers. The schedules are the settings ``dispatch_schedule``
(emails) and ``emit_schedule`` (conversions); docs/explanation/retries.md says which answers are retried.

Consecutive failures open a breaker, and a successful probe closes it:

closed ──FAILURE_THRESHOLD failures──▶ open ──pause over──▶ one probe ──succeeds──▶ closed
                                         ▲──── fails: the pause doubles ──┘
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

FAILURE_THRESHOLD: Final = 5
"""Consecutive failures that open a breaker."""
FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state of a lane's circuit breaker."""

    failures: int = 0
    """Consecutive failures."""
    trips: int = 0
    """Times that it opened since the last success."""
    open_for: float = 0.0
    """Seconds from now for which it stays open; 0 if it is not open."""


def pause_seconds(trips: int) -> float:
    """Return for how many seconds the ``trips``-th opening in a row lasts."""
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(trips - 1, 16))


def after_failures(breaker: Breaker, count: int, *, broken: bool = False) -> Breaker:
    """Return the breaker after ``count`` more failures; with ``broken`` it opens whatever the count is.

    While it is open, late failures of the attempts that opened it are ignored. A failure after the pause is that of
    the probe and opens it again, for longer.
    """
    failures = breaker.failures + count
    if breaker.trips == 0 and failures < FAILURE_THRESHOLD and not broken:
        return Breaker(failures)
    if breaker.trips > 0 and breaker.open_for > 0:
        return breaker
    return Breaker(failures, breaker.trips + 1, pause_seconds(breaker.trips + 1))


JITTER: Final = 0.2
"""Share by which delays vary in both directions, so that jobs that failed together are not retried together."""

Random = Callable[[], float]
"""Source of random numbers in [0, 1)."""


def jittered(seconds: float, random: Random) -> float:
    """Return ``seconds``, varied at random by up to JITTER in both directions."""
    return seconds * (1 - JITTER + 2 * JITTER * random())


def next_delay(schedule: Sequence[float], tries: int, random: Random, requested_s: float = 0) -> float | None:
    """Return the seconds from the ``tries``-th attempt (counted from 1) to the next; None after the last.

    The other system may ask for a longer pause (``requested_s``, plus up to JITTER of it, so that it is never shorter).
    A shorter one doesn't count: whoever always asks for a second would use up all attempts within a minute.
    """
    if tries > len(schedule):
        return None
    return max(jittered(schedule[max(tries, 1) - 1], random), requested_s * (1 + JITTER * random()))

"""When a job is tried again: the schedule of its attempts with jitter, and its lane's breaker. Pure.

Failures in a row open a breaker, one probe at a time closes it:

closed ──THRESHOLD failures in a row──▶ open ──pause over──▶ one probe ──answers──▶ closed
                                          ▲──────── fails: twice the pause ──┘
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

FAILURE_THRESHOLD: Final = 5
FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of a lane's health. ``open_for``: seconds from now; 0 where it is not open."""

    failures: int = 0
    trips: int = 0
    open_for: float = 0.0


def pause_seconds(trips: int) -> float:
    """Seconds that the ``trips``-th opening in a row lasts."""
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(trips - 1, 16))


def after_failures(breaker: Breaker, count: int, *, broken: bool = False) -> Breaker:
    """The breaker after so many more failures; ``broken``: there's no use in counting.

    While it is open, the stragglers of the attempts that opened it count for nothing; a failure
    after the pause is the probe's, and opens it anew, for longer.
    """
    failures = breaker.failures + count
    if breaker.trips == 0 and failures < FAILURE_THRESHOLD and not broken:
        return Breaker(failures)
    if breaker.trips > 0 and breaker.open_for > 0:
        return breaker
    return Breaker(failures, breaker.trips + 1, pause_seconds(breaker.trips + 1))


JITTER: Final = 0.2
"""± 20 %: what failed together does not come back together."""

Random = Callable[[], float]
"""A number in [0, 1)."""


def jittered(seconds: float, random: Random) -> float:
    """``seconds`` ± 20 %."""
    return seconds * (1 - JITTER + 2 * JITTER * random())


def next_delay(schedule: Sequence[float], tries: int, random: Random) -> float | None:
    """Seconds from the ``tries``-th attempt (from 1) to the next; None after the last."""
    if tries > len(schedule):
        return None
    return jittered(schedule[max(tries, 1) - 1], random)


def not_before(seconds: float, random: Random) -> float:
    """What the other side asked for, and up to 20 % more: never earlier than it said."""
    return seconds * (1 + JITTER * random())

"""How long until the next attempt: the schedule and its jitter. Pure; randomness comes in as a number."""

from collections.abc import Callable, Sequence
from typing import Final

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

"""What a worker gets (Job) and what it answers (Verdict); frozen values, no I/O.

```
 held ──▶ pending ──claim──▶ attempting ──done──▶ done
             ▲                │   │  └───bury───▶ dead ─────┐
             ├── retry ───────┘   └── lease ran out ─▶ claimed again as `unknown`:
             │   give_back                  resend (it is an attempt like any other) or hold ─▶ unknown
             └───────────────────────────── replay ◀────────┴──────────────────────────────────────┘
```
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a job is on its way."""

    HELD = "held"
    PENDING = "pending"
    ATTEMPTING = "attempting"
    UNKNOWN = "unknown"
    DONE = "done"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do, leased to us until the token's lease runs out."""

    queue: str
    stream: str
    seq: int
    name: str
    lane: str
    attempt: int
    """Which attempt this is, from 1, over all replays: ids made of it never repeat."""
    tries: int
    """Which attempt since the last replay: the place in the schedule."""
    unknown: bool
    """Somebody was at it and fell silent: it may have been done."""
    token: str
    payload: bytes
    route: str = ""
    """Who may have got it in an attempt before (see :mod:`pipeline.dispatch.routing.router`); empty: surely nobody."""


class Lane(StrEnum):
    """What an attempt told of its lane."""

    SILENT = "silent"
    """Nothing: the other side was not asked."""
    HEALTHY = "healthy"
    """The other side answers, whatever it said of this one job."""
    FAILING = "failing"
    """No answer, or one that says it's unwell; some in a row open the breaker."""
    BROKEN = "broken"
    """Nothing can work until somebody repairs it: opens the breaker at once."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended."""

    state: State
    delay: float = 0.0
    """Seconds until the next attempt."""
    error: str = ""
    burnt: bool = True
    """Whether it counts as an attempt."""
    lane: Lane = Lane.HEALTHY
    pause: str = ""
    """Why the whole lane has to wait for a person; empty: it hasn't."""


DONE: Final = Verdict(State.DONE)


def retry(delay: float, error: str, lane: Lane) -> Verdict:
    """Again, after so many seconds."""
    return Verdict(State.PENDING, delay, error, lane=lane)


def bury(error: str, lane: Lane = Lane.HEALTHY) -> Verdict:
    """A dead letter: kept, shown, and replayable."""
    return Verdict(State.DEAD, error=error, lane=lane)


def hold(error: str) -> Verdict:
    """It may have been done; a person decides."""
    return Verdict(State.UNKNOWN, error=error, lane=Lane.SILENT)


def give_back(delay: float, error: str, lane: Lane = Lane.SILENT, pause: str = "") -> Verdict:
    """It was not this job's fault: no attempt is burnt."""
    return Verdict(State.PENDING, delay, error, burnt=False, lane=lane, pause=pause)

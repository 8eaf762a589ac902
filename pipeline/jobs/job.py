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


class JobState(StrEnum):
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


class EndpointHealth(StrEnum):
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
class JobResult:
    """How an attempt ended."""

    state: JobState
    delay_s: float = 0.0
    """Seconds until the next attempt."""
    error: str = ""
    counts_as_attempt: bool = True
    """Whether it counts as an attempt."""
    health: EndpointHealth = EndpointHealth.HEALTHY
    pause_reason: str = ""
    """Why the whole lane has to wait for a person; empty: it hasn't."""


DONE: Final = JobResult(JobState.DONE)


def retry(delay: float, error: str, lane: EndpointHealth) -> JobResult:
    """Again, after so many seconds."""
    return JobResult(JobState.PENDING, delay, error, health=lane)


def bury(error: str, lane: EndpointHealth = EndpointHealth.HEALTHY) -> JobResult:
    """A dead letter: kept, shown, and replayable."""
    return JobResult(JobState.DEAD, error=error, health=lane)


def hold(error: str) -> JobResult:
    """It may have been done; a person decides."""
    return JobResult(JobState.UNKNOWN, error=error, health=EndpointHealth.SILENT)


def release(delay: float, error: str, lane: EndpointHealth = EndpointHealth.SILENT, pause: str = "") -> JobResult:
    """It was not this job's fault: no attempt is burnt."""
    return JobResult(JobState.PENDING, delay, error, counts_as_attempt=False, health=lane, pause_reason=pause)

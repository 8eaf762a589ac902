"""A job as its handler gets it, and the result that the handler returns. Frozen values, no I/O.

Used by the engine, the store and the job handlers of dispatch and emit.

```
 held ──▶ pending ──claim──▶ attempting ──done──▶ done
             ▲                │   │  └───bury───▶ dead ─────┐
             ├── retry ───────┘   └── lease ran out ─▶ claimed again as `unknown`:
             │   release                    resend (it is an attempt like any other) or hold ─▶ unknown
             └───────────────────────────── replay ◀────────┴──────────────────────────────────────┘
```
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """The state of a job in its table."""

    HELD = "held"
    PENDING = "pending"
    ATTEMPTING = "attempting"
    UNKNOWN = "unknown"
    DONE = "done"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job, leased to this process until the lease of its token runs out."""

    queue: str
    """`dispatch`, whose jobs send emails, or `emit`, whose jobs send conversions."""
    stream: str
    """The id of the email. The jobs of one email are done one after another, in the order of ``seq``."""
    seq: int
    name: str
    """`send`, or the word of the conversion, such as `open`."""
    lane: str
    """The brand whose job it is, as `tenant/brand`; the jobs of a lane are paused and delayed together."""
    attempt: int
    """Number of this attempt, from 1, counted over all replays, so that ids made of it never repeat."""
    tries: int
    """Number of this attempt since the last replay, which is its place in the retry schedule."""
    unknown: bool
    """Whether the lease of an earlier attempt ran out, so that the job may have been done."""
    token: str
    payload: bytes
    route: str = ""
    """Provider that may have accepted the email in an earlier attempt (see :mod:`pipeline.dispatch.routing.router`);
    empty if certainly none has."""
    traceparent: str = ""
    """Trace context of what made the job; empty if its email is not traced."""


class EndpointHealth(StrEnum):
    """The health of the other system that an attempt showed; it drives the breaker of the lane."""

    SILENT = "silent"
    """Nothing is known: the other system was not contacted."""
    HEALTHY = "healthy"
    """It answers, whatever the answer about this job is."""
    FAILING = "failing"
    """It does not answer, or reports an error of its own; several in a row open the breaker."""
    BROKEN = "broken"
    """Nothing can succeed until an operator repairs it; opens the breaker at once."""


UNHEALTHY: Final = (EndpointHealth.FAILING, EndpointHealth.BROKEN)


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of an attempt, as its handler returns it."""

    state: JobState
    delay_s: float = 0.0
    """Seconds until the next attempt."""
    error: str = ""
    counts_as_attempt: bool = True
    """Whether it counts as an attempt."""
    health: EndpointHealth = EndpointHealth.HEALTHY
    pause_reason: str = ""
    """Why the whole lane must be paused until an operator resumes it; empty if it must not."""


DONE: Final = JobResult(JobState.DONE)


def retry(delay_s: float, error: str, health: EndpointHealth) -> JobResult:
    """Return the result of a job to be tried again after ``delay_s`` seconds."""
    return JobResult(JobState.PENDING, delay_s, error, health=health)


def bury(error: str, health: EndpointHealth = EndpointHealth.HEALTHY) -> JobResult:
    """Return the result of a job that failed finally; it is kept and can be replayed by an operator."""
    return JobResult(JobState.DEAD, error=error, health=health)


def hold(error: str) -> JobResult:
    """Return the result of a job that may have been done, so that an operator must decide about it."""
    return JobResult(JobState.UNKNOWN, error=error, health=EndpointHealth.SILENT)


def release(delay_s: float, error: str, health: EndpointHealth = EndpointHealth.SILENT, pause: str = "") -> JobResult:
    """Return the result of a job that could not be tried, for a reason that is not its own.

    It is due again after ``delay_s`` seconds and the attempt is not counted. ``pause`` is the reason to pause its lane.
    """
    return JobResult(JobState.PENDING, delay_s, error, counts_as_attempt=False, health=health, pause_reason=pause)

"""Sample the progress and CPU time of an engine, and compute its rate and its cost per event."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.peers.processes import Processes
from bench.peers.progress import Broker, Progress

EVERY: Final = 0.05
STUCK: Final = 300.0
"""Seconds without progress after which a run fails; a recovery shows no progress before it is complete."""
SILENT: Final = 20.0
"""Seconds without new states after which an engine whose progress is read from its changelog counts as finished."""


class Stalled(Exception):
    """An engine did not reach the end of its topic."""


@dataclass(frozen=True)
class Sample:
    """The progress and the CPU time at one moment."""

    at: float
    done: int
    cpu: float
    together: bool = True
    """Whether all processes had joined the group."""


@dataclass(frozen=True)
class Pace:
    """Events per second, and the CPU time per event of all processes of the engine in microseconds."""

    per_second: float
    cpu_micros: float


def pace(began: Sample, samples: Sequence[Sample]) -> Pace:
    """Return the pace from the first progress after all processes had joined to the last one, without start-up.

    A run that ends before is measured from its beginning.
    """
    last = last_progress(samples)
    first = next((sample for sample in samples if sample.done and sample.together and sample.done < last.done), began)
    events = last.done - first.done
    return Pace(events / (last.at - first.at), 1e6 * (last.cpu - first.cpu) / events)


@dataclass(frozen=True)
class Run:
    """A running consumer group."""

    title: str
    group: str
    processes: Processes
    progress: Progress
    goes_silent: bool


async def to_the_end(broker: Broker, run: Run, target: int, within: float) -> list[Sample]:
    """Take samples until ``target`` events are done, and return them. Raises Ended, Stalled."""
    samples: list[Sample] = []
    deadline = time.monotonic() + within
    together = False
    while not samples or samples[-1].done < target:
        await asyncio.sleep(EVERY)
        together = together or await broker.members(run.group) >= run.processes.count
        done = await run.progress.done()
        samples.append(Sample(time.perf_counter(), done, run.processes.look(), together))
        if run.goes_silent and _silent(samples):
            break
        if time.monotonic() > deadline or _seconds_still(samples) > STUCK:
            tails = run.processes.tails()
            raise Stalled(f"{run.title}: {done} of {target}, and nothing more; the ends of its logs:\n{tails}")
    return samples


def last_progress(samples: Sequence[Sample]) -> Sample:
    """Return the first sample with the final number of events."""
    last = samples[-1]
    for sample in reversed(samples):
        if sample.done != last.done:
            break
        last = sample
    return last


def _silent(samples: Sequence[Sample]) -> bool:
    return samples[-1].done > 0 and _seconds_still(samples) > SILENT


def _seconds_still(samples: Sequence[Sample]) -> float:
    return samples[-1].at - last_progress(samples).at

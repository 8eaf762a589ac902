"""An engine's processes and its progress in, a rate and its cost out."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.peers.processes import Processes
from bench.peers.progress import Broker, Progress

EVERY: Final = 0.05
STUCK: Final = 300.0
"""Seconds without progress after which nobody waits any longer; a recovery shows none before it is over."""
SILENT: Final = 20.0
"""Seconds after which an engine that goes by its states and publishes none is taken to be through."""


class Stalled(Exception):
    """An engine does not come to the end of its topic."""


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment."""

    at: float
    done: int
    cpu: float
    together: bool = True
    """Whether all processes had joined the group."""


@dataclass(frozen=True)
class Pace:
    """Events per second, and what one costs in CPU time of the engine's processes."""

    per_second: float
    cpu_micros: float


def pace(began: Sample, samples: Sequence[Sample]) -> Pace:
    """From the first progress that all processes made together to the last progress: start-up is left out.

    A run that is over at once has no such window; it is measured from its beginning.
    """
    last = last_progress(samples)
    first = next((sample for sample in samples if sample.done and sample.together and sample.done < last.done), began)
    events = last.done - first.done
    return Pace(events / (last.at - first.at), 1e6 * (last.cpu - first.cpu) / events)


@dataclass(frozen=True)
class Run:
    """A group at work."""

    title: str
    group: str
    processes: Processes
    progress: Progress
    goes_silent: bool


async def to_the_end(broker: Broker, run: Run, target: int, within: float) -> list[Sample]:
    """Samples until everything is done. Raises Ended, Stalled."""
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
    """The first sample after which nothing more was done."""
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

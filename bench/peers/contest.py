"""Measure engines one after the other on the same topic, and compare their states with the expected ones."""

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import clean, load, states
from bench.peers.engines import Arena, Engine, Tell
from bench.peers.measure import EVERY, Pace, Run, Sample, Stalled, last_progress, pace, to_the_end
from bench.peers.processes import Cores, Processes
from bench.peers.progress import Broker, ByCommits, ByStates, Progress
from pipeline.devstack.servers.process import Program


@dataclass(frozen=True)
class Entrant:
    """An engine and the number of its processes."""

    engine: Engine
    processes: int = 1
    round: int = 0
    """Number of the round; each round is a consumer group of its own without committed offsets."""

    @property
    def title(self) -> str:
        """Return the name shown in tables."""
        return self.engine.title + (f" × {self.processes}" if self.processes > 1 else "")

    @property
    def run(self) -> str:
        """Return the name of its group, folder and logs."""
        return f"{self.engine.name}-{self.processes}" + (f"-{self.round}" if self.round else "")


@dataclass(frozen=True)
class Result:
    """The figures of an entrant."""

    entrant: Entrant
    pace: Pace
    peak_mb: float
    recovery_s: float | None
    """Seconds from a start on an empty disk until new events of every partition are done; None if not measured."""
    states: int
    trouble: str = ""
    """Difference of its states from the expected ones, which makes the figures invalid; empty if they are equal."""
    spread: tuple[float, float] | None = None
    """Events per second of the slowest and the fastest of several rounds."""


@dataclass(frozen=True)
class _Course:
    """One run of an entrant, from the start of its processes to the end of the topic."""

    started: float
    began: Sample
    samples: list[Sample]
    peak_mb: float


@dataclass
class Contest:
    """The conditions of a measurement, which are the same for all engines."""

    arena: Arena
    cores: Cores
    wanted: states.Expected
    within: float
    tell: Tell = field(default=lambda _: None)

    async def run(self, entrant: Entrant) -> Result:
        """Measure one run of an entrant and check its states.

        With a single process, its recovery from an empty disk is measured too, in the first round only.
        Raises Ended, Stalled, StartupFailed.
        """
        if entrant.engine.ours:
            await clean.forget(self.arena.settings)
        command = entrant.engine.command(self.tell)
        recovery = None
        async with Broker(self.arena.bootstrap) as broker:
            self.tell(f"{entrant.title}: folding")
            course = await self._course(broker, entrant, command, warm=True)
            trouble = await self._trouble(entrant)
            shutil.rmtree(self._folder(entrant))
            if entrant.processes == 1 and not entrant.round:
                self.tell(f"{entrant.title}: recovering from an empty disk")
                recovery = await self._recovery(broker, entrant, command)
                trouble = trouble or await self._trouble(entrant)
        await clean.sweep(self.arena.settings)
        measured = pace(course.began, course.samples)
        return Result(entrant, measured, course.peak_mb, recovery, len(self.wanted.states), trouble)

    async def _recovery(self, broker: Broker, entrant: Entrant, command: tuple[str, ...]) -> float:
        """Return the seconds of a recovery, until new events of all partitions are done, which need the whole table."""
        await load.repeat_first(self.arena.bootstrap, self.arena.topic, self.arena.partitions)
        course = await self._course(broker, entrant, command, warm=False)
        shutil.rmtree(self._folder(entrant))
        return last_progress(course.samples).at - course.started

    async def _course(self, broker: Broker, entrant: Entrant, command: tuple[str, ...], *, warm: bool) -> _Course:
        group = entrant.engine.group(self.arena, entrant.run)
        progress = self._progress(broker, entrant.engine, group)
        target, _ = await progress.target(), await progress.done()
        started = time.perf_counter()
        processes = Processes.start(self._programs(entrant, command, warm=warm), self.cores)
        try:
            if warm and entrant.engine.warms_up:
                await self._warm(entrant, processes)
            began = Sample(time.perf_counter(), 0, processes.look())
            run = Run(entrant.title, group, processes, progress, entrant.engine.goes_by_states)
            samples = await to_the_end(broker, run, target, self.within)
            return _Course(started, began, samples, processes.peak_mb)
        finally:
            await asyncio.to_thread(processes.stop)
            await broker.left(group)

    def _progress(self, broker: Broker, engine: Engine, group: str) -> Progress:
        if engine.goes_by_states:
            return ByStates(broker, group, self.arena.topic, engine.changelog(self.arena, group))
        return ByCommits(broker, group, self.arena.topic)

    def _programs(self, entrant: Entrant, command: tuple[str, ...], *, warm: bool) -> list[Program]:
        made = []
        for number in range(entrant.processes):
            folder = self._folder(entrant) / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            env = entrant.engine.env(self.arena, entrant.run, folder, warm=warm)
            log = self.arena.folder / "logs" / f"{entrant.run}-{number}.log"
            made.append(Program(f"{entrant.run}-{number}", command, log, env))
        return made

    async def _warm(self, entrant: Entrant, processes: Processes) -> None:
        """Wait until all processes are warm, and then let all of them begin."""
        folders = [self._folder(entrant) / str(number) for number in range(entrant.processes)]
        deadline = time.monotonic() + self.within
        while not all((folder / "ready").exists() for folder in folders):
            processes.look()
            if time.monotonic() > deadline:
                raise Stalled(f"{entrant.title}: not warm after {self.within:.0f} s:\n{processes.tails()}")
            await asyncio.sleep(EVERY)
        for folder in folders:
            (folder / "go").touch()

    async def _trouble(self, entrant: Entrant) -> str:
        engine = entrant.engine
        changelog = engine.changelog(self.arena, engine.group(self.arena, entrant.run))
        found = await states.compacted(self.arena.bootstrap, changelog, engine.unwrap)
        try:
            states.compare(entrant.title, found, self.wanted.states)
        except states.Different as error:
            return str(error)
        return ""

    def _folder(self, entrant: Entrant) -> Path:
        return self.arena.folder / entrant.run

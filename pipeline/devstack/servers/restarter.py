"""A program in; the same program kept running out: started again with back-off whenever it dies."""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import ChildProcess, Program, spawn

FIRST: Final = 0.2
LONGEST: Final = 10.0
HEALTHY: Final = 30.0
"""Seconds after which a child counts as healthy: its next death is a first one again."""


class Backoff:
    """0.2 s, doubling to 10 s."""

    def __init__(self) -> None:
        self._next = FIRST

    def after(self, lived: float) -> float:
        """Seconds to wait after a life of ``lived`` seconds."""
        if lived >= HEALTHY:
            self._next = FIRST
        wait, self._next = self._next, min(LONGEST, self._next * 2)
        return wait


class Restarter:
    """One supervised child."""

    def __init__(self, program: Program, pids: PidFiles, tell: Callable[[str], None]) -> None:
        self.program = program
        self.restarts = 0
        self._pids = pids
        self._tell = tell
        self.child = self._spawn()
        self._watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The program's name."""
        return self.program.name

    def start_watching(self) -> None:
        """From now on a death is followed by a new start."""
        self._watch = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self, patience: float) -> None:
        """End it for good."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self.child.stop_async(patience)
        self._pids.forget(self.name)

    async def _keep(self) -> None:
        backoff, clock = Backoff(), asyncio.get_running_loop().time
        while True:
            began = clock()
            code = await self.child.wait_until_exit()
            wait = backoff.after(clock() - began)
            self._tell(f"{self.name} {_death(code)}; it starts again in {wait:g} s. The end of {self.program.log}:")
            self._tell(self.child.tail())
            await asyncio.sleep(wait)
            try:
                self.child = self._spawn()
            except OSError as error:  # no memory, no process: the dead child's code brings us here again
                self._tell(f"{self.name} could not be started: {error}")
            else:
                self.restarts += 1

    def _spawn(self) -> ChildProcess:
        child = spawn(self.program)
        self._pids.remember(self.name, child.pid)
        return child


def _death(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

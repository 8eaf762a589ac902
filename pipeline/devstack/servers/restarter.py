"""Restart a program with back-off whenever it dies; the supervisor has a restarter per child."""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import ChildProcess, Program, rotate_log, spawn
from pipeline.runtime.tasks import cancel_tasks

FIRST_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 10.0
HEALTHY_AFTER_S: Final = 30.0
"""Seconds of running after which a child counts as healthy: its next restart waits for the first delay again."""

LOG_CHECK_INTERVAL_S: Final = 30.0
"""Seconds between two checks of the size of a running child's log."""


class Backoff:
    """The delay before the next restart: 0.2 s, doubling up to 10 s."""

    def __init__(self) -> None:
        self._next_s = FIRST_DELAY_S

    def after(self, lifetime_s: float) -> float:
        """Return the seconds to wait before the restart of a child that ran for ``lifetime_s``."""
        if lifetime_s >= HEALTHY_AFTER_S:
            self._next_s = FIRST_DELAY_S
        delay_s, self._next_s = self._next_s, min(MAX_DELAY_S, self._next_s * 2)
        return delay_s


class Restarter:
    """A supervised child, which is restarted whenever it dies; ``tell`` is called with lines about it."""

    def __init__(self, program: Program, pid_files: PidFiles, tell: Callable[[str], None]) -> None:
        self.program = program
        self.restarts = 0
        self._pid_files = pid_files
        self._tell = tell
        self.child = self._spawn()
        self._watchers: tuple[asyncio.Task[None], ...] = ()

    @property
    def name(self) -> str:
        """Return the program's name."""
        return self.program.name

    def start_watching(self) -> None:
        """Restart the child from now on when it dies, and keep its log small."""
        self._watchers = (
            asyncio.create_task(self._restart_on_exit(), name=f"restart {self.name}"),
            asyncio.create_task(self._limit_log(), name=f"limit the log of {self.name}"),
        )

    async def stop(self, timeout_s: float) -> None:
        """Stop the child and restart it no more; kill it where it still runs after ``timeout_s``."""
        await cancel_tasks(self._watchers)
        await self.child.stop_async(timeout_s)
        self._pid_files.forget(self.name)

    async def _restart_on_exit(self) -> None:
        backoff, clock = Backoff(), asyncio.get_running_loop().time
        while True:
            started_at = clock()
            code = await self.child.wait_until_exit()
            delay_s = backoff.after(clock() - started_at)
            exit_text = _describe_exit(code)
            self._tell(f"{self.name} {exit_text}; it starts again in {delay_s:g} s. The end of {self.program.log}:")
            self._tell(self.child.tail())
            await asyncio.sleep(delay_s)
            try:
                self.child = self._spawn()
            except OSError as error:  # as for lack of memory; the ended child is still set, so the loop tries again
                self._tell(f"{self.name} could not be started: {error}")
            else:
                self.restarts += 1

    async def _limit_log(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            try:
                rotate_log(self.program.log)
            except OSError as error:  # as on a full disk
                self._tell(f"{self.program.log} could not be rotated: {error}")

    def _spawn(self) -> ChildProcess:
        child = spawn(self.program)
        self._pid_files.remember(self.name, child.pid)
        return child


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

"""The roles of the product as processes: started as a user would, killed, frozen, stopped, restarted after a crash."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.chaos.ledger import Ledger

PATIENCE = 10.0
"""Seconds that a role may take to end after SIGTERM."""
STARTING = 8.0


class Process:
    """A process of a role; its ``name`` is the role and a number."""

    def __init__(self, role: str, number: int, env: Mapping[str, str], folder: Path, tree: Path) -> None:
        self.role = role
        self.name = f"{role}-{number}"
        self.env = dict(env)
        self.log = folder / f"{self.name}.log"
        self.wanted = True
        self.frozen = False
        self.quick_deaths = 0
        self.began = 0.0
        self._log_from = 0
        self.tree = tree
        """Folder of the source that the next start runs."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.wanted, self.frozen, self.began = True, False, time.monotonic()
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", self.role],
                env=self.env,
                cwd=self.tree,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        return self._process is not None and self.code is None

    @property
    def ready(self) -> bool:
        """Return whether the worker has reported since its last start that it is ready."""
        if not self.alive:
            return False
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            return b"worker ready" in log.read()

    @property
    def young(self) -> bool:
        """Return whether SIGTERM ended it while Python may still have been importing, before its handler was set."""
        return self.code == -signal.SIGTERM and time.monotonic() - self.began < STARTING

    def signal(self, number: int) -> None:
        if self.alive:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.signal(signal.SIGCONT)

    async def gone(self, patience: float = PATIENCE) -> bool:
        """Wait for the process to end by itself; return whether it did in time."""
        deadline = time.monotonic() + patience
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.alive


class Processes:
    """All processes and their supervisor."""

    def __init__(self, ledger: Ledger) -> None:
        self.all: list[Process] = []
        self._ledger = ledger
        self._stopping = False

    def of(self, role: str) -> list[Process]:
        return [process for process in self.all if process.role == role]

    def targets(self) -> list[Process]:
        """Return the processes that can be faulted: running and not frozen."""
        return [process for process in self.all if process.alive and not process.frozen]

    async def supervise(self) -> None:
        """Restart processes that ended, with longer pauses for those that ended often recently."""
        pauses: dict[str, float] = {}
        while not self._stopping:
            for process in self.all:
                if process.wanted and not process.alive:
                    self._revive(process, pauses)
            await asyncio.sleep(0.05)

    def _revive(self, process: Process, pauses: dict[str, float]) -> None:
        now = time.monotonic()
        if process.name not in pauses:
            self._ledger.exits.append((process.role, process.code or 0))
            process.quick_deaths = process.quick_deaths + 1 if now - process.began < 5 else 0
            pauses[process.name] = now + min(5.0, 0.2 * 2**process.quick_deaths)
        elif now >= pauses[process.name]:
            del pauses[process.name]
            process.start()

    async def end(self, process: Process) -> float:
        """Stop a process with SIGTERM and return the seconds it took; a wrong exit is recorded in the ledger."""
        process.wanted = False
        if process.code is None and not process.alive:
            return 0.0  # never started
        if process.frozen:
            process.thaw()
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        if not await process.gone():
            self._ledger.wrong.append(f"{process.name}: still there {PATIENCE:.0f} s after SIGTERM")
            process.kill()
            await process.gone()
        elif process.code not in (0, -signal.SIGKILL) and not process.young:
            self._ledger.wrong.append(f"{process.name}: exit code {process.code} after SIGTERM ({process.log})")
        return time.monotonic() - began

    async def stop(self) -> dict[str, float]:
        """Stop all processes with SIGTERM and return the seconds that each took."""
        self._stopping = True
        took = await asyncio.gather(*(self.end(process) for process in self.all))
        return {process.name: seconds for process, seconds in zip(self.all, took, strict=True)}

    def abandon(self) -> None:
        """Kill all remaining processes."""
        self._stopping = True
        for process in self.all:
            process.wanted = False
            process.kill()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all processes and supervise them until the block ends."""
        for process in self.all:
            process.start()
        watcher = asyncio.create_task(self.supervise())
        try:
            yield
        finally:
            self.abandon()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

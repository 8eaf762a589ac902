"""Run the processes of an engine, each on a core of its own, and measure their CPU seconds and peak memory."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

from pipeline.devstack.servers.process import ChildProcess, Program, spawn

PATIENCE: Final = 30.0
_CAN_PIN: Final = hasattr(os, "sched_setaffinity")


class Ended(Exception):
    """A process of an engine ended unexpectedly."""


class Cores:
    """The assignment of cores: one for each process of an engine, the rest for the broker and this program."""

    def __init__(self, engines: int) -> None:
        self.all = sorted(os.sched_getaffinity(0)) if _CAN_PIN else []
        spare = self.all[engines:] or self.all[-1:]
        self.engines = [{core} for core in self.all[:engines]] or [set[int]()]
        self.broker = set(spare)

    @property
    def pinned(self) -> bool:
        """Return whether processes can be pinned: the system supports it and there is more than one core."""
        return len(self.all) > 1

    def stay(self) -> None:
        """Keep this process, and processes that it starts from now on, off the cores of the engine."""
        if self.pinned:
            os.sched_setaffinity(0, self.broker)

    @contextlib.contextmanager
    def engine(self, number: int) -> Iterator[None]:
        """Run processes that are started in this block on the core of the engine's ``number``-th process."""
        if self.pinned:
            os.sched_setaffinity(0, self.engines[number % len(self.engines)])
        try:
            yield
        finally:
            self.stay()


class Processes:
    """The running processes of an engine."""

    def __init__(self, children: Sequence[ChildProcess]) -> None:
        self._children = children
        self._seen = [psutil.Process(child.pid) for child in children]
        self._peak = [0] * len(children)

    @classmethod
    def start(cls, programs: Sequence[Program], cores: Cores) -> "Processes":
        """Start one process per program, each on its core."""
        children = []
        for number, program in enumerate(programs):
            with cores.engine(number):
                children.append(spawn(program))
        return cls(children)

    def look(self) -> float:
        """Return the CPU seconds used so far and update the peak memory. Raises Ended with the end of the log."""
        for child in self._children:
            if not child.is_running():
                raise Ended(f"{child.program.name} ended with {child.process.returncode}:\n{child.tail(40)}")
        self._peak = [max(known, _peak(process)) for known, process in zip(self._peak, self._seen, strict=True)]
        times = [process.cpu_times() for process in self._seen]
        return sum(time.user + time.system for time in times)

    @property
    def count(self) -> int:
        """Return the number of processes."""
        return len(self._children)

    @property
    def peak_mb(self) -> float:
        """Return the sum of the peak memory of all processes, in megabytes."""
        return sum(self._peak) / 1e6

    def stop(self) -> None:
        """Stop all processes: send SIGTERM, wait, and kill those that are left."""
        for child in self._children:
            if child.is_running():
                child.process.send_signal(child.program.stop_signal)
        deadline = time.monotonic() + PATIENCE
        for child in self._children:
            child.stop(timeout_s=max(0.1, deadline - time.monotonic()))

    def tails(self) -> str:
        """Return the ends of the logs."""
        return "\n".join(f"{child.program.name}:\n{child.tail()}" for child in self._children)


def _peak(process: psutil.Process) -> int:
    """Return the peak memory in bytes, as Linux records it (VmHWM); on other systems the current memory."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)

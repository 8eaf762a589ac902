"""Programs in, processes on a core of their own out, with what they cost: CPU seconds and peak memory."""

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
    """An engine ended by itself; it should have gone on."""


class Cores:
    """Who runs where: each engine's process on one core, the broker and this bench on what is left."""

    def __init__(self, engines: int) -> None:
        self.all = sorted(os.sched_getaffinity(0)) if _CAN_PIN else []
        spare = self.all[engines:] or self.all[-1:]
        self.engines = [{core} for core in self.all[:engines]] or [set[int]()]
        self.broker = set(spare)

    @property
    def pinned(self) -> bool:
        """Whether this system lets us, and there is more than one core to choose from."""
        return len(self.all) > 1

    def stay(self) -> None:
        """Keep this process, and whatever it starts from now on, off the first engine's core."""
        if self.pinned:
            os.sched_setaffinity(0, self.broker)

    @contextlib.contextmanager
    def engine(self, number: int) -> Iterator[None]:
        """What is started in here runs on the core of the engine's ``number``-th process."""
        if self.pinned:
            os.sched_setaffinity(0, self.engines[number % len(self.engines)])
        try:
            yield
        finally:
            self.stay()


class Processes:
    """An engine's processes."""

    def __init__(self, children: Sequence[ChildProcess]) -> None:
        self._children = children
        self._seen = [psutil.Process(child.pid) for child in children]
        self._peak = [0] * len(children)

    @classmethod
    def start(cls, programs: Sequence[Program], cores: Cores) -> "Processes":
        """One process per program, each on its core."""
        children = []
        for number, program in enumerate(programs):
            with cores.engine(number):
                children.append(spawn(program))
        return cls(children)

    def look(self) -> float:
        """The CPU seconds spent so far, in user and kernel mode. Raises Ended with the end of the log."""
        for child in self._children:
            if not child.is_running():
                raise Ended(f"{child.program.name} ended with {child.process.returncode}:\n{child.tail(40)}")
        self._peak = [max(known, _peak(process)) for known, process in zip(self._peak, self._seen, strict=True)]
        times = [process.cpu_times() for process in self._seen]
        return sum(time.user + time.system for time in times)

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._children)

    @property
    def peak_mb(self) -> float:
        """The most memory that they held, each at its worst, in megabytes."""
        return sum(self._peak) / 1e6

    def stop(self) -> None:
        """SIGTERM, patience, SIGKILL."""
        for child in self._children:
            if child.is_running():
                child.process.send_signal(child.program.stop_signal)
        deadline = time.monotonic() + PATIENCE
        for child in self._children:
            child.stop(timeout_s=max(0.1, deadline - time.monotonic()))

    def tails(self) -> str:
        """The ends of their logs."""
        return "\n".join(f"{child.program.name}:\n{child.tail()}" for child in self._children)


def _peak(process: psutil.Process) -> int:
    """Linux remembers the peak (VmHWM); elsewhere what is seen now has to do."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)

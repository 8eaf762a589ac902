"""Store the process ids of a supervisor's children, and end those that a killed supervisor left running."""

import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipeline.devstack.servers.data_dir import make_folder
from pipeline.runtime.private_files import replace_file


class PidFiles:
    """A folder with a file per running child: its process id, and its start time, because ids are reused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, name: str, pid: int) -> None:
        """Store a child's process id."""
        make_folder(self._folder)
        with contextlib.suppress(psutil.NoSuchProcess):
            replace_file(self._folder / name, f"{pid} {psutil.Process(pid).create_time()}")

    def forget(self, name: str) -> None:
        """Delete the file of a child that has ended."""
        (self._folder / name).unlink(missing_ok=True)

    def running_pids(self) -> dict[str, int]:
        """Return the process ids of the children that are running, by name."""
        return {name: process.pid for name, process in self._running().items()}

    def end_orphans(self, stop_signals: Mapping[str, int], timeout_s: float = 10.0) -> list[str]:
        """End the processes that an earlier supervisor left running, and return their names.

        Each gets its stop signal, by default SIGKILL, and is killed where it still runs after ``timeout_s``.
        """
        orphans = self._running()
        for name, process in orphans.items():
            _send(process, stop_signals.get(name, signal.SIGKILL))
        _, alive = psutil.wait_procs(list(orphans.values()), timeout=timeout_s)
        for process in alive:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=timeout_s)
        for path in self._files():
            path.unlink(missing_ok=True)
        return sorted(orphans)

    def _running(self) -> dict[str, psutil.Process]:
        return {path.name: process for path in self._files() if (process := _find_process(path)) is not None}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*")) if self._folder.exists() else []


def _find_process(path: Path) -> psutil.Process | None:
    """Return the process of a file; None where it has ended, or its id belongs to another process now."""
    try:
        pid, started_at = path.read_text().split()
        process = psutil.Process(int(pid))
        # The start time is computed from the wall clock, which may have been adjusted since; ignore small differences.
        is_same = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(started_at)) < 2
    except (psutil.NoSuchProcess, ValueError):
        return None
    return process if is_same else None


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
